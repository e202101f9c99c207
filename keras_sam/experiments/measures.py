"""What figures 4, 5 and 7 and table 12 record while a network trains, on batches of its training data."""

import keras
import numpy as np
from keras import ops

from keras_sam import SAM, backend, in_ascent


class Measures(keras.callbacks.Callback):
    """Adds to the logs of every epoch, before the callbacks after it see them.

    `"sharpness"` is the mean over the batches of L(w + ε̂) − L(w), where ε̂ is the rule's and L the error rate
    (`sharpness_of_error`, with `perturbed_error`, L(w + ε̂)) or the loss (`sharpness_of_loss`). `"cosine"` is that of
    the angle between the gradients which SAM applies with and without the terms of second order.

    Args:
        names: Names of what to record, of `"sharpness"` and `"cosine"`.
        rule: The rule that chooses ε̂ for each of its micro-batches.
        batches: List of pairs of images and labels.

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), C.4 and C.6.
    """

    def __init__(self, names, rule, batches):
        super().__init__()
        self.functions = [FUNCTIONS[name] for name in names]
        self.rule, self.batches = rule, batches

    def on_epoch_end(self, epoch, logs=None):
        for function in self.functions:
            logs.update(over_micro_batches(function, self.model, self.rule, self.batches))


def over_micro_batches(function, model, rule, batches):
    """The mean of `function(model, rule, x, y)`, a dict of floats, over the examples of all micro-batches."""
    values, sizes = [], []
    for x, y in batches:
        size = rule.m if isinstance(rule.m, int) else len(x)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            values.append(function(model, rule, ops.convert_to_tensor(x[part]), ops.convert_to_tensor(y[part])))
            sizes.append(len(x[part]))
    return {name: float(np.average([value[name] for value in values], weights=sizes)) for name in values[0]}


def sharpness(model, rule, x, y):
    """The error rate and the loss at w + ε̂, and by how much they exceed those at w."""
    weights = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    value_and_grad = backend.value_and_grad(lambda w: training_loss(model, w, x, y))
    there = weights

    def watched(weights):
        nonlocal there
        there = there if in_ascent() else weights
        return value_and_grad(weights)

    rule.gradient(watched, weights, _step(model, rule))
    error, perturbed_error = (error_rate(model, w, x, y) for w in (weights, there))
    loss, perturbed_loss = (float(training_loss(model, w, x, y)) for w in (weights, there))
    return {
        "perturbed_error": perturbed_error,
        "sharpness_of_error": perturbed_error - error,
        "sharpness_of_loss": perturbed_loss - loss,
    }


def cosine(model, rule, x, y):
    """The cosine of the angle between the updates of first and second order, of SAM of the same ρ and p."""
    weights = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    value_and_grad = backend.value_and_grad(lambda w: training_loss(model, w, x, y))
    first, second = (
        _flat(SAM(rule.rho, rule.p, second_order=order).gradient(value_and_grad, weights, _step(model, rule))[0])
        for order in (False, True)
    )
    return {"cosine": float(first @ second / np.sqrt((first @ first) * (second @ second)))}


def training_loss(model, weights, x, y):
    """The whole training loss, BatchNormalization by the batch's own statistics; changes nothing."""
    logits, _, penalties = model.stateless_call(
        weights, model.non_trainable_variables, x, training=True, return_losses=True
    )
    return sum(penalties, model.loss(y, logits))


def error_rate(model, weights, x, y):
    """The share of wrong predictions, of labels that are classes or shares of classes."""
    logits, _ = model.stateless_call(weights, model.non_trainable_variables, x, training=True)
    labels = ops.argmax(y, -1) if len(y.shape) > 1 else y
    predictions = ops.cast(ops.argmax(logits, -1), labels.dtype)
    return float(ops.mean(ops.cast(ops.not_equal(predictions, labels), "float32")))


FUNCTIONS = {"sharpness": sharpness, "cosine": cosine}
# What they add to the logs.
NAMES = "perturbed_error", "sharpness_of_error", "sharpness_of_loss", "cosine"


def _step(model, rule):
    return rule.step(ops.convert_to_tensor(model.optimizer.iterations), model.trainable_variables)


def _flat(gradient):
    parts = [ops.convert_to_numpy(g).astype("float64").ravel() for g in gradient if g is not None]
    return np.concatenate(parts)
