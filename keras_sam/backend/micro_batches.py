"""Section 4.1 of the paper on one device: a batch in micro-batches of m examples, each with an ε̂ of its own."""

import fractions
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sam.backend import keras_private
from keras_sam.rules.step import cast, widened


class Result(NamedTuple):
    """What a (micro-)batch contributes to a training step.

    Args:
        gradient: List of tensors for the optimizer, `None` where the loss does not depend on a weight.
        state: The rule's new state, a structure of tensors.
        loss: Scalar, at w.
        sharpness: Scalar, L(w + ε̂) − L(w).
        y_pred: Predictions at w.
        updates: Pairs of a variable that the pass at w updated and its value.
    """

    gradient: list
    state: Any
    loss: Any
    sharpness: Any
    y_pred: Any
    updates: list


def num_examples(batch):
    """Integer, or a tensor where the batch dimension is not static."""
    return ops.shape(next(a for a in keras.tree.flatten(batch) if a is not None))[0]


def rows(batch, start=0, stop=None):
    """The rows of each tensor of a structure in which `None` can occur."""
    return _map(lambda a: a[start:stop], batch)


def share_of(size, fraction):
    """`fraction` of `size`, rounded, but 1 at least; an integer where `size` is one."""
    if fraction == 1:
        return size
    # In integers, which round a tensor as they round a number.
    ratio = fractions.Fraction(fraction).limit_denominator(10**6)
    if isinstance(size, int):
        return max(1, _rounded(size, ratio))
    return ops.cast(ops.maximum(1, _rounded(ops.cast(size, "int64"), ratio)), size.dtype)


def _rounded(size, ratio):
    return (2 * size * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)


def ascent_rows(batch, m, fraction):
    """The rows of a batch that choose ε̂: the first of each micro-batch."""
    size = num_examples(batch)
    if fraction == 1:
        return batch
    if not isinstance(m, int):
        return rows(batch, 0, share_of(size, fraction))
    count, share = (size - 1) // m, share_of(m, fraction)

    def first_of_each(a):
        whole = _stacked(a, count, m)[:, :share]
        last = a[count * m :]
        return ops.concatenate([_unstacked(whole), last[: share_of(ops.shape(last)[0], fraction)]])

    return _map(first_of_each, batch)


def over_micro_batches(run, batch, weights, m, fraction, loop, is_carried):
    """Runs a step on every micro-batch of m rows, the last of which may be smaller, and averages by numbers of rows.

    The last one goes first, outside of the loop: it shows what there is to average. All start from the same state,
    but for what `is_carried`, such as the states of random seeds, which goes on from one to the next.

    Args:
        run: Function from a batch, its number and pairs of a variable and its value to a `Result`.
        batch: Structure of tensors with the same number of rows.
        weights: List of tensors, one for each gradient.
        m: Integer, or anything else for a single run.
        fraction: Float, the share of its rows for which `run` gives predictions.
        loop: Function from a count, a body `(i, carry) → carry` and the first carry to the last one.
        is_carried: Function from a variable to a boolean.

    Returns:
        `Result`, with the predictions in the order of the rows; of those that have none the mean, or that of the last
        micro-batch where they are integers or booleans.
    """
    size = num_examples(batch)
    if not isinstance(m, int) or (isinstance(size, int) and size <= m):
        return run(batch, 0, ())
    count = (size - 1) // m
    last = run(rows(batch, count * m), count, ())
    parts, part_size = _parts(batch, count, m)
    variables = [variable for variable, _ in last.updates]
    to_carry = [v for v in variables if is_carried(v)]
    num_rows = share_of(size - count * m, fraction)
    in_rows = [has_rows(y, num_rows) for y in _with_masks(last.y_pred)]
    has_gradient = [False] * len(weights)

    def split(result):
        """What is averaged, what is carried on, and the predictions by row, as lists of tensors."""
        predictions = list(zip(_with_masks(result.y_pred), in_rows, strict=True))
        value_of = {id(v): value for v, value in result.updates}
        _check_same_updates(variables, [v for v, _ in result.updates])
        averaged = [value_of[id(v)] for v in variables if not is_carried(v)]
        # Run eagerly, a layer can leave out weights that no row of a micro-batch needs.
        has_gradient[:] = [had or g is not None for had, g in zip(has_gradient, result.gradient)]
        averaged += [ops.zeros_like(w) if g is None else g for w, g in zip(weights, result.gradient)]
        averaged += [*(tensor for slot in result.state for tensor in slot), result.loss, result.sharpness]
        averaged += [y for y, by_row in predictions if not by_row and has_mean(y)]
        return averaged, [value_of[id(v)] for v in to_carry], [y for y, by_row in predictions if by_row]

    def weighted(tensors, rows):
        tensors = [widened(t) for t in tensors]
        return [t * (ops.cast(rows, t.dtype) / ops.cast(size, t.dtype)) for t in tensors]

    averaged, carried, predicted = split(last)
    share = share_of(part_size, fraction)
    # XLA compiles the loop of no rounds as well, and writes to nothing that is empty.
    room = count if isinstance(count, int) else ops.maximum(count, 1)
    outputs = [ops.zeros((room, share, *ops.shape(y)[1:]), dtype=y.dtype) for y in predicted]

    def body(i, carry):
        sums, carried, outputs = carry
        averaged, carried, predicted = split(run(parts(i), i, zip(to_carry, carried)))
        sums = [s + t for s, t in zip(sums, weighted(averaged, m))]
        outputs = [ops.scatter_update(o, [[i]], y[None]) for o, y in zip(outputs, predicted)]
        return sums, carried, outputs

    sums, carried, outputs = loop(count, body, (weighted(averaged, size - count * m), carried, outputs))
    sums, carried = iter([cast(s, t.dtype) for s, t in zip(sums, averaged)]), iter(carried)
    updates = [(v, next(carried) if is_carried(v) else next(sums)) for v in variables]
    gradient = [g if has else None for has, g in zip(has_gradient, [next(sums) for _ in weights])]
    state = keras.tree.map_structure(lambda _: next(sums), last.state)
    loss, sharpness = next(sums), next(sums)
    by_row = iter([ops.concatenate([_unstacked(o)[: count * share], y]) for o, y in zip(outputs, predicted)])
    predicted = zip(_with_masks(last.y_pred), in_rows, strict=True)
    outputs = iter([next(by_row if row else sums) if row or has_mean(y) else y for y, row in predicted])
    # On torch `map_structure` goes by the order of a dict's keys, and `flatten` sorts them.
    flat = [None if y is None else next(outputs) for y in keras.tree.flatten(last.y_pred)]
    y_pred = keras.tree.pack_sequence_as(last.y_pred, flat)
    for whole, part in zip(keras.tree.flatten(y_pred), keras.tree.flatten(last.y_pred)):
        if keras_private.get_keras_mask(part) is not None:
            keras_private.set_keras_mask(whole, next(outputs))
    return Result(gradient, state, loss, sharpness, y_pred, updates)


def has_rows(tensor, num_rows):
    """Whether a prediction is one of `num_rows` rows, and not such as a penalty of the whole batch."""
    rows = tensor.shape[0] if len(tensor.shape) else 0
    return rows is None or (isinstance(num_rows, int) and 0 < rows == num_rows)


def has_mean(tensor):
    """Whether a prediction is a float, and not a count or a flag."""
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _with_masks(y_pred):
    """The predictions and what layers have masked of them, which metrics leave out, as one list of tensors."""
    predictions = [y for y in keras.tree.flatten(y_pred) if y is not None]
    masks = map(keras_private.get_keras_mask, predictions)
    return [*predictions, *(mask for mask in masks if mask is not None)]


def check_averaged(model, over, otherwise):
    """Raise a `ValueError` for a compiled loss that is a sum over examples, where ours is a mean of parts."""
    for loss in keras.tree.flatten(model.loss):
        if getattr(loss, "reduction", None) == "sum":
            raise ValueError(
                f"`sam={model.sam!r}` averages over {over}, but {type(loss).__name__} adds up the losses of the "
                "examples (`reduction='sum'`), so that a step would be a fraction of plain Keras's. Leave `reduction` "
                f"at 'sum_over_batch_size', or pass a rule with `m={otherwise!r}`."
            )


def _map(function, structure):
    def apply(a):
        if type(a).__name__ in ("SparseTensor", "RaggedTensor", "BCOO"):
            raise ValueError(
                f"`m` and `ascent_fraction` cut a batch into rows, and this one has a {type(a).__name__}, which cannot "
                "be cut. Make it dense, or leave them out."
            )
        return None if a is None else function(ops.convert_to_tensor(a))

    return keras.tree.map_structure(apply, structure)


def _parts(batch, count, m):
    """A function from a number below `count` to that micro-batch; and its rows, which only a step can tell sometimes.

    Where the number of rows is no integer theirs is none either, as that of the last micro-batch: Keras weights the
    losses of single outputs by it.
    """
    size = num_examples(batch)
    if isinstance(size, int):
        whole = _map(lambda a: _stacked(a, count, m), batch)
        return lambda i: _map(lambda a: a[i], whole), m
    part_size = ops.minimum(size, m)
    return lambda i: _map(lambda a: ops.take(a, i * m + ops.arange(part_size), axis=0), batch), part_size


def _check_same_updates(expected, variables):
    different = {v.path for v in expected} ^ {v.path for v in variables}
    if different:
        raise ValueError(
            f"A layer updates {sorted(different)} for some micro-batches and not for others, of which there is no "
            "average. Update them in every call, or pass a rule with `m=None`."
        )


def _stacked(a, count, m):
    return ops.reshape(a[: count * m], (count, m, *ops.shape(a)[1:]))


def _unstacked(a):
    shape = ops.shape(a)
    return ops.reshape(a, (shape[0] * shape[1], *shape[2:]))
