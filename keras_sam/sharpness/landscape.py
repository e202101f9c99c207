"""The loss along directions in the space of the weights (figure 1 of the paper), by the method of Li et al."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sam.rules.step import moved
from keras_sam.sharpness.objective import Objective


class Surface(NamedTuple):
    """The loss and the error rate around a model, along one direction or over two.

    Args:
        alpha: Array of coordinates along the first direction; the model is at 0.
        beta: Array of coordinates along the second, or `None`.
        loss: Array of shape `(len(alpha),)` or `(len(alpha), len(beta))`.
        error: Array of the same shape, NaN unless the model is a classifier.
    """

    alpha: np.ndarray
    beta: np.ndarray | None
    loss: np.ndarray
    error: np.ndarray


def filter_normalized_direction(model, seed=0):
    """A random direction whose filters are as long as the model's.

    ```
    d_f = z_f ‖w_f‖ / ‖z_f‖    for each filter f, with z normal;    0 for biases and normalization
    ```

    A filter is what makes one output: all of a kernel but its last axis, as in dense and convolutional layers. (Kernels
    of depthwise and transposed convolutions have other axes, and are scaled like the rest.) So scaled, surfaces of
    different networks can be held against each other.

    Args:
        model: A built `keras.Model`.
        seed: Int. Defaults to `0`.

    Returns:
        List of arrays, one for each of `model.trainable_variables`.

    Example:

    >>> direction = keras_sam.sharpness.filter_normalized_direction(model)
    >>> kernel, bias = model.trainable_variables
    >>> bool(np.allclose(np.linalg.norm(direction[0], axis=0), np.linalg.norm(kernel, axis=0), atol=1e-6))
    True

    Reference: [Li et al., 2018](https://arxiv.org/abs/1712.09913), section 4.
    """
    random = np.random.default_rng(seed)
    direction = []
    for variable in model.trainable_variables:
        w = ops.convert_to_numpy(variable).astype("float64")
        z = random.normal(size=w.shape)
        if w.ndim < 2:
            direction.append(np.zeros_like(w))
            continue
        axes = tuple(range(w.ndim - 1))
        direction.append(z * np.sqrt(np.sum(w**2, axes, keepdims=True) / np.sum(z**2, axes, keepdims=True)))
    return direction


def loss_surface(
    model, data, other=None, dimensions=2, span=None, num_points=21, training=False, batch_size=32, seed=0, verbose=1
):
    """The loss and the error rate on a grid around a model, or on a plane through two.

    ```
    L(w + α d₁ + β d₂)
    ```

    Around one model d₁ and d₂ are random and filter-normalised, and the same draws for every model of one
    architecture and seed. Through two, d₁ leads from the first, at α = 0, to the other, at α = 1, BatchNormalization's
    statistics included; d₂ is a random one, orthogonal to it and as long.

    Args:
        model: A compiled, built `keras.Model`.
        data: Whatever `evaluate` takes: `(x, y)`, a `tf.data.Dataset`, …
        other: Another model of the same architecture. Defaults to `None`.
        dimensions: `1` for a line or `2` for a plane. Defaults to `2`.
        span: Pair of floats, the range of both coordinates. Defaults to `None`: −1 to 1, through two models α from
            −0.5 to 1.5 and β from −1 to 1.
        num_points: Int, of each coordinate; every point is a pass over the data. Defaults to `21`.
        training: Boolean, whether BatchNormalization uses the statistics of the batch. Defaults to `False`.
        batch_size: Int, examples in memory at a time where `data` are arrays. Defaults to `32`.
        seed: Int, of the random directions. Defaults to `0`.
        verbose: `1` shows progress, `0` nothing. Defaults to `1`.

    Returns:
        `Surface`. Where the loss is not finite it holds NaN or infinity.

    Raises:
        ValueError: If the model is not compiled or built, if the data are empty, if the loss at w is not finite, if
            `other` has other weights, or if an argument is none of these.

    Example:

    >>> model.compile(loss="mse")
    >>> surface = keras_sam.sharpness.loss_surface(model, (np.ones((8, 3)), np.ones((8, 2))), num_points=3, verbose=0)
    >>> surface.loss.shape
    (3, 3)

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), figure 1;
    [Li et al., 2018](https://arxiv.org/abs/1712.09913).
    """
    if dimensions not in (1, 2):
        raise ValueError(f"Received `dimensions={dimensions!r}`; expected 1, a line, or 2, a plane.")
    if not isinstance(num_points, int | np.integer) or num_points < 2:
        raise ValueError(f"Received `num_points={num_points!r}`; expected an integer of at least 2.")
    _check_span(span)
    objective = Objective(model, data, batch_size, training, verbose)
    if other is not None:
        _check_same(model, other)
    objective.expect(num_points**dimensions + 1)
    objective.here()
    directions = [filter_normalized_direction(model, [seed, i]) for i in range(dimensions)]
    weights, state = objective.weights, objective.state
    drift = [np.zeros(s.shape) for s in state]
    if other is not None:
        counterpart = {id(v): w for v, w in zip(model.weights, other.weights)}
        first = _way(model.trainable_variables, counterpart)
        drift = _way(model.non_trainable_variables, counterpart)
        directions[0] = first
        if dimensions == 2:
            directions[1] = _orthogonal(directions[1], first)
    low, high = span or ((-0.5, 1.5) if other is not None else (-1.0, 1.0))
    alpha = np.linspace(low, high, num_points)
    beta = np.linspace(*(span or (-1.0, 1.0)), num_points) if dimensions == 2 else None
    measured = np.empty((num_points, 1 if beta is None else num_points, 2))
    for i, a in enumerate(alpha):
        at_alpha = moved(state, _scaled(a, drift, state)) if other is not None else state
        for j, b in enumerate([0.0] if beta is None else beta):
            ray = [sum(c * part for c, part in zip((a, b), parts)) for parts in zip(*directions)]
            measured[i, j] = objective.measure(moved(weights, _scaled(1.0, ray, weights)), at_alpha)
    loss, error = np.moveaxis(measured, -1, 0)
    return Surface(alpha, beta, loss[:, 0], error[:, 0]) if beta is None else Surface(alpha, beta, loss, error)


def _scaled(factor, arrays, like):
    """Tensors, with `None` for what has no fractions: the states of random seeds stay."""
    return [
        ops.convert_to_tensor(factor * a, t.dtype) if keras.backend.is_float_dtype(_dtype(t)) else None
        for a, t in zip(arrays, like)
    ]


def _way(variables, counterpart):
    """From variables to those of another model; none for what only this one has, as the states of random seeds."""
    ways = []
    for variable in variables:
        here = ops.convert_to_numpy(variable).astype("float64")
        there = counterpart.get(id(variable), variable)
        ways.append(ops.convert_to_numpy(there).astype("float64") - here)
    return ways


def _dtype(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def _dot(first, second):
    return sum(np.sum(a * b) for a, b in zip(first, second))


def _orthogonal(direction, first):
    """A direction without its part along another, and as long as that one."""
    length = _dot(first, first)
    if not length:
        raise ValueError("Received an `other` model with the same weights, so that there is no way from one to it.")
    share = _dot(direction, first) / length
    rest = [d - share * f for d, f in zip(direction, first)]
    return [d * np.sqrt(length / _dot(rest, rest)) for d in rest]


def _check_span(span):
    numbers = np.ravel([0.0, 1.0] if span is None else span)
    if len(numbers) != 2 or numbers.dtype.kind not in "iuf" or not -np.inf < numbers[0] < numbers[1] < np.inf:
        raise ValueError(f"Received `span={span!r}`; expected a pair of finite numbers, the smaller one first.")


def _check_same(model, other):
    shapes = [[tuple(v.shape) for v in m.weights] for m in (model, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`{other.name}` has other weights than `{model.name}`: {len(shapes[1])} of {other.count_params()} entries "
            f"against {len(shapes[0])} of {model.count_params()}. Expected two models of one architecture."
        )
