"""The JAX backend: gradients by `jax.value_and_grad`, a pure train step that Keras compiles and donates."""

import contextlib

import jax
import keras
from keras import ops

from keras_sam.backend import keras_private, rule_state
from keras_sam.backend.jax_convolutions import in_standard_layout
from keras_sam.backend.jax_devices import data_axis, sam_gradient_of_devices
from keras_sam.backend.jax_trainer import Trainer, check_devices, check_hosts_agree, is_chief
from keras_sam.backend.micro_batches import check_averaged
from keras_sam.backend.passes import Batch, check_weights, loss_scale
from keras_sam.backend.step import sam_gradient, step_of, track

__all__ = ["Trainer", "check_hosts_agree", "is_chief"]


def value_and_grad(function, has_aux=False):
    """A function that evaluates `function` and its gradient with respect to a list of tensors.

    Args:
        function: Function from a list of tensors to a scalar, or with `has_aux` to a scalar and anything else.
        has_aux: Whether `function` returns a pair. Defaults to `False`.

    Returns:
        Function from a list of tensors to `(value, gradients)`, or `((value, aux), gradients)`. A gradient is
        zero for a tensor that the value does not depend on.

    Example:

    >>> value, gradient = keras_sam.backend.value_and_grad(lambda w: keras.ops.sum(w[0] ** 2))([keras.ops.ones(2)])
    >>> np.array(gradient[0])
    array([2., 2.], dtype=float32)
    """
    differentiated = jax.value_and_grad(function, has_aux=has_aux)
    return lambda weights: differentiated([ops.convert_to_tensor(w) for w in weights])


def hessian_vector_product(function, weights, vector):
    """∇²f(w) v, a list of tensors: the derivative of ∇f along v, which costs half of a gradient of ⟨∇f(w), v⟩."""
    vector = [ops.cast(v, w.dtype) for v, w in zip(vector, weights)]
    return jax.jvp(lambda w: jax.grad(function)(w), (weights,), (vector,))[1]


def random_state():
    """The states of random numbers that are no layer's, arrays: here all of Keras's are."""
    return []


def set_random_state(states):
    """Put back what `random_state` returned."""


def compiled(function):
    """`function` of structures of tensors, traced once for each of their shapes; faster where it is called often."""
    return jax.jit(function)


def is_eager():
    """Whether what runs now runs each time, and is no graph that is traced once."""
    return False


def loop(count, body, carry):
    """`carry = body(i, carry)` for i in 0 … count − 1, one after the other."""
    return ops.fori_loop(0, count, in_standard_layout(body), carry)


def cond(condition, if_true, if_false):
    """`if_true()` where the scalar `condition` is true, else `if_false()`."""
    return ops.cond(condition, in_standard_layout(if_true), if_false)


def check_read(variable):
    """Raise a `ValueError` for a weight that is read where no gradient sees it, which is nowhere here."""


def guarded(model):
    """A context manager around an evaluation at other weights, which every layer uses here."""
    return contextlib.nullcontext()


def check_model(model):
    """Raise a `ValueError` for a model that SAM would train wrongly on this backend."""
    if keras_private.is_built(model):
        check_weights(model)
    check_devices(model)
    if data_axis(model.sam) is not None:
        check_averaged(model, "devices", otherwise="global")


def train_step(model, sharpness, state, data):
    """One step of `fit`: a pure function, which reads no variable and assigns none.

    Args:
        model: A compiled `SAMTrainer` model.
        sharpness: The `keras.metrics.Mean` that tracks L(w + ε̂) − L(w).
        state: The values of the trainable, the non-trainable, the optimizer's and the metrics' variables.
        data: Batch, as `fit` passes it to `train_step`.

    Returns:
        The logs, a dict; and the new state.
    """
    weights, others, optimizer_values, metrics = state
    batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
    check_weights(model)
    optimizer = model.optimizer
    with keras.StatelessScope(zip(optimizer.variables, optimizer_values)):
        step, scale = step_of(model), loss_scale(optimizer)
    beside = [*zip(model.non_trainable_variables, others), *zip(model.metrics_variables, metrics)]
    axis = data_axis(model.sam)
    if axis is None:
        result, seen = sam_gradient(model, weights, batch, step, beside, scale), None
    else:
        result, seen = sam_gradient_of_devices(*axis, model, weights, batch, step, beside, scale)
    weights, optimizer_values = optimizer.stateless_apply(optimizer_values, result.gradient, weights)
    with keras.StatelessScope(zip(optimizer.variables, optimizer_values)) as scope:
        for variable, value in rule_state.updates(model, result.state, result.gradient, scale):
            variable.assign(value)
    optimizer_values = [scope.get_current_value(v) for v in optimizer.variables]
    with keras.StatelessScope([*beside, *result.updates]) as scope:
        logs = track(model, sharpness, result, batch, step, scale, seen)
    others = [scope.get_current_value(v) for v in model.non_trainable_variables]
    metrics = [scope.get_current_value(v) for v in model.metrics_variables]
    return logs, (weights, others, optimizer_values, metrics)
