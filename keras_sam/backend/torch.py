"""The torch backend: gradients by `torch.autograd.grad`, with respect to tensors that are no parameters."""

import contextlib
import contextvars

import keras
import torch
from keras import ops

from keras_sam.backend import keras_private, rule_state
from keras_sam.backend.passes import (
    MISSED_WEIGHTS,
    RECOMPUTED,
    Batch,
    check_not_rematerialized,
    check_weights,
    loss_scale,
)
from keras_sam.backend.step import sam_gradient, step_of, track

_differentiated = contextvars.ContextVar("keras_sam_differentiated", default=False)


def value_and_grad(function, has_aux=False):
    """A function that evaluates `function` and its gradient with respect to a list of tensors.

    Args:
        function: Function from a list of tensors to a scalar, or with `has_aux` to a scalar and anything else.
        has_aux: Whether `function` returns a pair. Defaults to `False`.

    Returns:
        Function from a list of tensors to `(value, gradients)`, or `((value, aux), gradients)`. A gradient is
        `None` for a tensor that the value does not depend on. Inside another `value_and_grad` all of it can be
        differentiated again; outside, nothing that it returns keeps a graph.

    Example:

    >>> value, gradient = keras_sam.backend.value_and_grad(lambda w: keras.ops.sum(w[0] ** 2))([keras.ops.ones(2)])
    >>> np.array(gradient[0])
    array([2., 2.], dtype=float32)
    """

    def evaluate(weights):
        nested = _differentiated.get()
        weights = [torch.as_tensor(w) for w in weights]
        if not nested:
            weights = [w.detach() for w in weights]
        # An outer gradient may need the path through a weight, so that only what has no graph yet becomes a leaf.
        weights = [w if w.requires_grad else w.detach().requires_grad_() for w in weights]
        token = _differentiated.set(True)
        try:
            with torch.enable_grad():
                result = function(weights)
                value = result[0] if has_aux else result
                gradient = [None] * len(weights)
                if value.requires_grad:
                    with _Unread():
                        gradient = list(torch.autograd.grad(value, weights, create_graph=nested, allow_unused=True))
        finally:
            _differentiated.reset(token)
        return (result, gradient) if nested else (keras.tree.map_structure(_detached, result), gradient)

    return evaluate


class _Unread(keras.StatelessScope):
    """Around a backward pass, which reads no variable but where a layer computes its forward pass once more."""

    def get_current_value(self, variable):
        raise ValueError(RECOMPUTED.format(path=variable.path))


def _detached(value):
    return keras_private.masked_alike(torch.detach, value) if isinstance(value, torch.Tensor) else value


def hessian_vector_product(function, weights, vector):
    """∇²f(w) v, a list of tensors: the gradient of ⟨∇f(w), v⟩, with `None` for a weight without second derivatives."""

    def slope(weights):
        _, gradient = value_and_grad(function)(weights)
        products = [torch.sum(g * v.to(g.dtype)) for g, v in zip(gradient, vector) if g is not None]
        return sum(products, start=torch.zeros(()))

    # The faster kernels of attention have no second derivative.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return value_and_grad(slope)(weights)[1]


def random_state():
    """The states of random numbers that are no layer's, arrays: unseeded dropout asks torch's generators."""
    return [source.get_rng_state() for source in _generators()]


def set_random_state(states):
    """Put back what `random_state` returned."""
    for source, state in zip(_generators(), states):
        source.set_rng_state(torch.as_tensor(state))


def compiled(function):
    """`function` itself: torch runs eagerly."""
    return function


def is_eager():
    """Whether what runs now runs each time, and is no graph that is traced once."""
    return True


def loop(count, body, carry):
    """`carry = body(i, carry)` for i in 0 … count − 1, one after the other."""
    # `ops.fori_loop` flattens the carry, which torch does by a closure that keeps all of it alive until Python's cyclic
    # garbage is collected.
    for i in range(int(count)):
        carry = body(i, carry)
    return carry


def cond(condition, if_true, if_false):
    """`if_true()` where the scalar `condition` is true, else `if_false()`."""
    return ops.cond(condition, if_true, if_false)


# Keras's own trainer does all that `fit` needs around a step.
Trainer = keras_private.Trainer


def is_chief(model):
    """Whether this process is the one that writes checkpoints."""
    return True


def check_hosts_agree(model, facts):
    """Raise a `ValueError` where hosts differ in what has to be the same on all of them."""


def check_model(model):
    """Raise a `ValueError` for a model that SAM would train wrongly on this backend."""
    if keras_private.is_built(model):
        check_weights(model)
    _check_layers(model)


def check_read(variable):
    """Raise a `ValueError` for a weight that is read where no gradient sees it: here the backward pass finds it."""


@contextlib.contextmanager
def guarded(model):
    """A context manager around an evaluation at other weights, which raises where a layer would not use them."""
    _check_layers(model)
    yield


def _check_layers(model):
    check_not_rematerialized(model)
    wrapped = keras_private.torch_wrappers(model)
    if wrapped:
        raise ValueError(MISSED_WEIGHTS.format(names=", ".join(f"`{layer.name}`" for layer in wrapped)))


def train_step(model, sharpness, data):
    """One step of `fit`.

    Args:
        model: A compiled `SAMTrainer` model.
        sharpness: The `keras.metrics.Mean` that tracks L(w + ε̂) − L(w).
        data: Batch, as `fit` passes it to `train_step`.

    Returns:
        The logs, a dict.
    """
    batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
    check_model(model)
    optimizer, variables = model.optimizer, model.trainable_variables
    step = step_of(model)
    weights = [v.value.detach() for v in variables]
    scale = loss_scale(optimizer)
    with torch.no_grad():
        result = sam_gradient(model, weights, batch, step, scale=scale, guards=_same_random_numbers)
        # Before the weights move: a layer may have assigned a weight's value to another variable.
        for variable, value in result.updates:
            variable.assign(value)
        optimizer.apply(result.gradient, variables)
        for variable, value in rule_state.updates(model, result.state, result.gradient, scale):
            variable.assign(value)
        return track(model, sharpness, result, batch, step, scale)


def _same_random_numbers():
    """A guard under which each evaluation draws the same numbers: unseeded dropout asks torch's own generators."""
    states = random_state()

    @contextlib.contextmanager
    def guard():
        set_random_state(states)
        yield

    return guard


def _generators():
    return [torch, torch.cuda] if torch.cuda.is_initialized() else [torch]
