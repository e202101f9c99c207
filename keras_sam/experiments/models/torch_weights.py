"""Reads a file of `torch.save` without torch, and without running what a pickle could ask for."""

import collections
import pickle

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


def read(path):
    """The tensors of a state dict in the format that `torch.save` wrote until version 1.5.

    Args:
        path: Of the file: pickles of a magic number, a version, the machine, the dict and its storages' keys, then
            the storages.

    Returns:
        Dict from names to NumPy arrays.

    Raises:
        pickle.UnpicklingError: If the file is in another format, or names anything but dicts and tensors.
    """
    storages = {}
    with open(path, "rb") as file:
        magic, _, machine = (_Unpickler(file, storages).load() for _ in range(3))
        if magic != MAGIC or not machine["little_endian"]:
            raise pickle.UnpicklingError(f"`{path}` does not begin as `torch.save` of version 1.5 or before would.")
        tensors = _Unpickler(file, storages).load()
        for key in _Unpickler(file, storages).load():
            count = int.from_bytes(file.read(8), "little")
            storages[key][:] = np.frombuffer(file.read(count * storages[key].itemsize), storages[key].dtype)
    return dict(tensors)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, storages):
        super().__init__(file)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"The file asks for `{module}.{name}`; only dicts of tensors are read.")
        return ALLOWED[module, name]

    def persistent_load(self, pid):
        # The numbers follow later in the file; tensors are views of this array.
        _, dtype, key, _, count, _ = pid
        return self.storages.setdefault(key, np.zeros(count, dtype))


def _tensor(storage, offset, shape, strides, *_):
    """A view, whose bounds NumPy checks."""
    size = storage.itemsize
    return np.ndarray(shape, storage.dtype, storage, offset * size, [size * stride for stride in strides])


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
}
