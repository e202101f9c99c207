"""The data that `evaluate` takes, as batches of NumPy arrays."""

import keras
import numpy as np
from keras import ops

from keras_sam.rules.checks import check_positive

EMPTY = "holds no examples; expected one batch at least."


def num_examples(batch):
    """The number of rows of a batch."""
    return len(next(a for a in keras.tree.flatten(batch) if a is not None))


def rows(batch, start=0, stop=None):
    """The rows of each array of a batch."""
    return keras.tree.map_structure(lambda a: None if a is None else a[start:stop], batch)


def tensors(batch):
    """A batch of arrays as tensors."""
    return keras.tree.map_structure(lambda a: None if a is None else ops.convert_to_tensor(a), batch)


def groups(batches, m, batch_size):
    """The examples of some batches in groups of `m`, of which the last may be smaller, each a list of batches.

    Args:
        batches: Iterable of batches, of any sizes.
        m: Int.
        batch_size: Int, the most examples of a batch of a group.
    """
    rest = []
    for batch in batches:
        rest = _extended(rest, batch)
        while sum(map(num_examples, rest)) >= m:
            group, rest = _split(rest, m)
            yield _parts(group, batch_size)
    if sum(map(num_examples, rest)):
        yield _parts(rest, batch_size)


def _extended(group, batch):
    """A group and one batch more, in one array with the last where their other axes agree: series can be padded."""
    if not group or _shapes(group[-1]) != _shapes(batch):
        return [*group, batch]
    joined = keras.tree.map_structure(lambda a, b: None if a is None else np.concatenate([a, b]), group[-1], batch)
    return [*group[:-1], joined]


def _shapes(batch):
    return [None if a is None else np.shape(a)[1:] for a in keras.tree.flatten(batch)]


def _split(group, m):
    """The first `m` examples of a group, and the others, each a list of batches without empty ones."""
    first, others = [], []
    for batch in group:
        first.append(rows(batch, 0, m))
        others.append(rows(batch, m))
        m = max(0, m - num_examples(batch))
    return [[batch for batch in part if num_examples(batch)] for part in (first, others)]


def _parts(group, size):
    return [rows(batch, start, start + size) for batch in group for start in range(0, num_examples(batch), size)]


def check(data, batch_size):
    """Raise a `ValueError` for data that cannot be read again and again, to their end, in batches of that size."""
    check_positive(batch_size, "batch_size")
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
    shapes = [tuple(getattr(a, "shape", ())) for a in keras.tree.flatten(data)]
    if any(shape[:1] == (0,) for shape in shapes):
        raise ValueError(f"Received arrays of the shapes {shapes} for `data`, which {EMPTY}")


def check_labels(model, y):
    """Raise a `ValueError` for a batch without the labels that the compiled loss is of."""
    losses = [loss for loss in keras.tree.flatten(model.loss) if loss is not None]
    # A `compute_loss` of one's own may find them elsewhere.
    if y is None and losses and type(model).compute_loss is keras.Model.compute_loss:
        raise ValueError(
            f"Received `data` without labels for `{model.name}`, whose loss is {losses[0]!r}; expected `(x, y)`. "
            "Compile a model that has its loss from `add_loss` with `loss=None`."
        )
