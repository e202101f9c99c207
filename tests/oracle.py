"""SAM as one writes it at first: perturb the variables in place, restore them. The oracle for whole Keras models."""

import keras
import numpy as np
import tensorflow as tf


def train_on_batch(model, x, y, sample_weight=None, rho=0.05, jit_compile=False):
    """One SAM step (p = 2) of a compiled `keras.Model`; returns the clean loss and the perturbed one."""
    variables = model.trainable_variables
    # XLA draws other random numbers than the eager kernels.
    evaluate = tf.function(_loss_and_gradient, jit_compile=True) if jit_compile else _loss_and_gradient
    clean = [tf.constant(v.numpy()) for v in variables]
    before = [v.numpy() for v in model.non_trainable_variables]
    loss, gradient = evaluate(model, x, y, sample_weight)
    after = [v.numpy() for v in model.non_trainable_variables]
    norm = np.sqrt(sum(np.sum(np.square(g.numpy(), dtype="float64")) for g in gradient if g is not None))
    for variable, value, g in zip(variables, clean, gradient):
        if g is not None and norm > 0:
            variable.assign(value + tf.cast(rho / norm, g.dtype) * g)
    _assign(model, before)
    perturbed_loss, gradient = evaluate(model, x, y, sample_weight)
    _assign(model, after)
    for variable, value in zip(variables, clean):
        variable.assign(value)
    pairs = [(g, v) for g, v in zip(gradient, variables) if g is not None]
    model.optimizer.apply_gradients(pairs)
    return float(loss), float(perturbed_loss)


def _loss_and_gradient(model, x, y, sample_weight):
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, sample_weight)
    gradient = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return loss, [g if g is None else tf.convert_to_tensor(g) for g in gradient]


def _assign(model, values):
    for variable, value in zip(model.non_trainable_variables, values):
        variable.assign(value)


def batches(x, y, size, count):
    """`count` batches of NumPy arrays or structures of them, cycling through the data."""
    total = len(keras.tree.flatten(y)[0])
    for i in range(count):
        rows = np.arange(i * size, (i + 1) * size) % total
        yield keras.tree.map_structure(lambda a, rows=rows: a[rows], (x, y))
