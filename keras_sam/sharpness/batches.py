"""The data that `evaluate` takes, as batches of NumPy arrays."""

import keras
import numpy as np
from keras import ops


def num_examples(batch):
    """The number of rows of a batch."""
    return len(next(a for a in keras.tree.flatten(batch) if a is not None))


def rows(batch, start=0, stop=None):
    """The rows of each array of a batch."""
    return keras.tree.map_structure(lambda a: None if a is None else a[start:stop], batch)


def tensors(batch):
    """A batch of arrays as tensors."""
    return keras.tree.map_structure(lambda a: None if a is None else ops.convert_to_tensor(a), batch)


def _concatenated(first, second):
    return keras.tree.map_structure(lambda a, b: None if a is None else np.concatenate([a, b]), first, second)


def groups(batches, m, batch_size):
    """The examples of some batches in groups of `m`, of which the last may be smaller, each a list of batches.

    Args:
        batches: Iterable of batches, of any sizes.
        m: Int.
        batch_size: Int, the most examples of a batch of a group.
    """
    rest = None
    for batch in batches:
        rest = batch if rest is None else _concatenated(rest, batch)
        while num_examples(rest) >= m:
            yield _parts(rows(rest, 0, m), batch_size)
            rest = rows(rest, m)
    if num_examples(rest):
        yield _parts(rest, batch_size)


def _parts(group, size):
    return [rows(group, start, start + size) for start in range(0, num_examples(group), size)]


def check(data):
    """Raise a `ValueError` for data that cannot be read again and again, to their end."""
    name = type(data).__name__
    if data is None or (not isinstance(data, (tuple, list)) and hasattr(data, "__next__")):
        raise ValueError(
            f"Received a {name}, and data are read once for each evaluation. Expected what can be read again: "
            "arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or another data loader."
        )
    # `tf.data` says −1 of a data set without end, a `PyDataset` that it has no number of batches.
    endless = callable(getattr(data, "cardinality", None)) and int(data.cardinality()) == -1
    if endless or (isinstance(data, keras.utils.PyDataset) and data.num_batches is None):
        raise ValueError(
            f"Received a {name} that goes on for ever; expected one with an end, such as `dataset.take(…)`."
        )
