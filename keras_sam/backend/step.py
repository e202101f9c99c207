"""What a train step is on every backend: the rule's gradient for a batch, and the logs."""

import contextlib
import functools

import keras
from keras import ops

from keras_sam import backend
from keras_sam.backend import keras_private, rule_state
from keras_sam.backend.micro_batches import Result, ascent_rows, num_examples, over_micro_batches
from keras_sam.backend.passes import Forward, Passes


def step_of(model):
    """The `Step` that a train step gives to its rule: all that the optimizer knows."""
    rule, optimizer = model.sam, model.optimizer
    momentum = keras_private.momentum(optimizer, model.trainable_variables) if rule.uses_momentum else None
    # A copy, since the optimizer counts on before the logs are made.
    iterations = ops.copy(optimizer.iterations)
    return rule.step(iterations, model.trainable_variables, rule_state.read(model), momentum)


def sam_gradient(model, weights, batch, step, state=(), scale=None, guards=None, may_skip=True, all_reduce=None):
    """The gradient of `model.sam`, and whatever else a training step changes; nothing is assigned.

    Args:
        model: A compiled `SAMTrainer` model.
        weights: List of tensors, one for each of `model.trainable_variables`.
        batch: `Batch`.
        step: `Step`.
        state: Pairs of a variable and its value, for backends whose variables have none during a step.
        scale: What losses are multiplied by before they are differentiated, or `None`.
        guards: Optional function that is called for each (micro-)batch and gives the `guard` of its `Forward`.
        may_skip: Whether a step with a radius of 0 may leave the second pass out. Defaults to `True`.
        all_reduce: Optional function that averages a list of gradients over replicas, for `m="global"`.

    Returns:
        `Result`.
    """
    rule, variables = model.sam, model.trainable_variables
    # The pass at w is on a part of the batch, or is to be differentiated again: then it cannot stand in for the other.
    may_skip = may_skip and rule.ascent_fraction == 1 and not rule.second_order
    second_pass = rule.needs_second_pass(step) if may_skip else True

    @functools.cache
    def metrics():
        """Those that there are after a first pass, which creates some."""
        variables = {id(v) for v in model.metrics_variables}
        if isinstance(num_examples(batch), int):
            return variables
        # There Keras counts each call once, however many rows it has.
        return variables - {id(v) for v in keras_private.loss_trackers(model)}

    def run(batch, number, carried):
        guard = guards() if guards else contextlib.nullcontext
        forward = Forward(model, [*state, *carried], scale, guard)

        def evaluate(weights, batch):
            return backend.value_and_grad(lambda w: forward(w, batch), has_aux=True)(weights)

        ascent_batch = ascent_rows(batch, None, rule.ascent_fraction)
        passes = Passes(evaluate, batch, ascent_batch, scale, second_pass, all_reduce)
        gradient, rule_state = rule.gradient(passes, weights, step._replace(share=step.share + number))
        return Result(
            passes.for_optimizer(gradient, variables),
            rule_state,
            passes.loss,
            passes.sharpness(),
            passes.y_pred,
            list(zip(forward.updated, passes.values)),
        )

    def is_carried(variable):
        """Seeds and counters, of which there is no average, and metrics, which add up."""
        return not keras.backend.is_float_dtype(variable.dtype) or id(variable) in metrics()

    return over_micro_batches(run, batch, weights, rule.m, rule.ascent_fraction, backend.loop, is_carried)


def track(model, sharpness, result, batch, step, scale, seen=None):
    """Updates the metrics by the pass at w, and the sharpness where this step computed it.

    Args:
        model, sharpness, result, batch, step, scale: As a train step has them.
        seen: `Batch`, the rows that `result.y_pred` is of. Defaults to `None`, those that `ascent_rows` takes.

    Returns:
        The logs, a dict.
    """
    rule = model.sam
    size = num_examples(batch)
    unscale = keras_private.unscale_loss_for_distribution
    keras_private.track_loss(model, unscale(result.loss), size)
    if rule.has_clean_pass:
        weight = ops.cast(size, "float32") * ops.cast(rule.needs_second_pass(step), "float32")
        value = unscale(result.sharpness)
        if scale is not None:
            # A step that loss scaling skips for its overflow has no ε̂, and is left out as well.
            finite = ops.isfinite(value)
            weight, value = weight * ops.cast(finite, "float32"), ops.where(finite, value, ops.zeros_like(value))
        sharpness.update_state(value, sample_weight=weight)
    x, y, sample_weight = ascent_rows(batch, rule.m, rule.ascent_fraction) if seen is None else seen
    logs = model.compute_metrics(x, y, result.y_pred, sample_weight=sample_weight)
    # A `compute_metrics` of the user's own need not know of it.
    return {**logs, "sharpness": sharpness.result()} if rule.has_clean_pass else logs
