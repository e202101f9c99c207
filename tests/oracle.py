"""SAM as one writes it at first: perturb the variables in place, restore them. The oracle for whole Keras models."""

import weakref

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
_compiled = weakref.WeakKeyDictionary()


def train_on_batch(model, x, y, sample_weight=None, rho=0.05, jit_compile=False):
    """One SAM step (p = 2) of a compiled `keras.Model`; returns the clean loss and the perturbed one."""
    variables = model.trainable_variables
    evaluate = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](model, jit_compile)
    x, y = keras.tree.map_structure(ops.convert_to_tensor, (x, y))
    sample_weight = None if sample_weight is None else ops.convert_to_tensor(sample_weight)
    clean = values_of(variables)
    before, random = values_of(model.non_trainable_variables), _random_state()
    loss, gradient = evaluate(model, x, y, sample_weight)
    after, random_after = values_of(model.non_trainable_variables), _random_state()
    norm = np.sqrt(sum(np.sum(np.square(to_numpy(g), dtype="float64")) for g in gradient if g is not None))
    for variable, value, g in zip(variables, clean, gradient):
        if g is not None and norm > 0:
            variable.assign(ops.convert_to_tensor(value) + ops.cast(rho / norm, g.dtype) * g)
    _assign(model.non_trainable_variables, before)
    _set_random_state(random)
    perturbed_loss, gradient = evaluate(model, x, y, sample_weight)
    _assign(model.non_trainable_variables, after)
    _set_random_state(random_after)
    _assign(variables, clean)
    pairs = [(g, v) for g, v in zip(gradient, variables) if g is not None]
    model.optimizer.apply_gradients(pairs)
    return float(loss), float(perturbed_loss)


def _tensorflow(model, jit_compile):
    import tensorflow as tf

    def evaluate(model, x, y, sample_weight):
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred, sample_weight)
        gradient = tape.gradient(loss, [v.value for v in model.trainable_variables])
        return loss, [g if g is None else tf.convert_to_tensor(g) for g in gradient]

    if not jit_compile:
        return evaluate
    # XLA draws other random numbers than the eager kernels.
    compiled = _once(model, lambda model: tf.function(lambda *batch: evaluate(model(), *batch), jit_compile=True))
    return lambda model, *batch: compiled(*batch)


def _jax(model, jit_compile):
    import jax

    def differentiated(model):
        def loss(*arguments):
            return model().compute_loss_and_updates(*arguments[:-1], training=True, optimizer_variables=arguments[-1])

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def evaluate(model, x, y, sample_weight):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        lists = [model.trainable_variables, model.non_trainable_variables, model.metrics_variables]
        values = [[v.value for v in variables] for variables in lists]
        optimizer = [v.value for v in model.optimizer.variables]
        function = _once(model, differentiated)
        (loss, (_, _, after, _)), gradient = function(*values, x, y, sample_weight, optimizer)
        _assign(model.non_trainable_variables, after)
        return loss, gradient

    return evaluate


def _once(model, compiler):
    """What `compiler` makes of a function without arguments that returns the model, for all its steps."""
    if model not in _compiled:
        _compiled[model] = compiler(weakref.ref(model))
    return _compiled[model]


def _torch(model, jit_compile):
    def evaluate(model, x, y, sample_weight):
        for variable in model.trainable_variables:  # `zero_grad` misses what LoRA added
            variable.value.grad = None
        loss = model.compute_loss(x, y, model(x, training=True), sample_weight)
        loss.backward()
        return loss.detach(), [
            None if v.value.grad is None else v.value.grad.clone() for v in model.trainable_variables
        ]

    return evaluate


def _random_state():
    if BACKEND == "torch":
        import torch

        return torch.get_rng_state()
    return None


def _set_random_state(state):
    if BACKEND == "torch":
        import torch

        torch.set_rng_state(state)


def _assign(variables, values):
    for variable, value in zip(variables, values):
        variable.assign(value)


def to_numpy(tensor):
    return ops.convert_to_numpy(tensor)


def values_of(variables):
    return [np.array(to_numpy(v)) for v in variables]


def batches(x, y, size, count):
    """`count` batches of NumPy arrays or structures of them, cycling through the data."""
    total = len(keras.tree.flatten(y)[0])
    for i in range(count):
        rows = np.arange(i * size, (i + 1) * size) % total
        yield keras.tree.map_structure(lambda a, rows=rows: a[rows], (x, y))
