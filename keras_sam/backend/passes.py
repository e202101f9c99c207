"""The evaluations of the loss that one training step makes: functional, all from the same state."""

import contextlib
import random
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.backend import keras_private
from keras_sam.rules.step import in_ascent, is_overwritten


class Batch(NamedTuple):
    """What `fit` passes to a train step; each a tensor or a structure of tensors, the last two or `None`."""

    x: Any
    y: Any = None
    sample_weight: Any = None


class Scope(keras.StatelessScope):
    """A stateless scope for one evaluation of a model at weights of one's choice.

    Args:
        weights: Pairs of a variable and the tensor that it is evaluated, and differentiated, at.
        state: Pairs of another variable and its value.
        on_update: Optional function that is called with each variable that is updated.
    """

    def __init__(self, weights, state=(), on_update=None):
        weights = list(weights)
        super().__init__(state_mapping=[*state, *weights], collect_losses=True)
        self.weights = {id(variable) for variable, _ in weights}
        self.on_update = on_update
        # Of variables that are no model's as well.
        self.updates = {}

    def get_current_value(self, variable):
        if id(variable) in self.weights:
            backend.check_read(variable)
        return super().get_current_value(variable)

    def add_update(self, update):
        variable, value = update
        if self.on_update is not None:
            self.on_update(variable)
        self.updates[id(variable)] = (variable, value)
        super().add_update(update)


class Forward:
    """The training loss of a model as a function of the weights, which no variable notices.

    Args:
        model: A compiled `SAMTrainer` model.
        state: Pairs of a variable and the value to read in its place, the trainable variables aside.
        scale: What losses are multiplied by before they are differentiated, or `None`.
        guard: Optional function that returns a context manager, entered around each evaluation. What it yields is
            called with each variable that the evaluation updates, unless it is `None`.
    """

    def __init__(self, model, state=(), scale=None, guard=contextlib.nullcontext):
        self.model = model
        self.state = list(state)
        self.scale = scale
        self.guard = guard
        self.updated = None
        # What a layer such as `keras.layers.AugMix` draws while it is traced is part of the graph, of all passes alike.
        self.random = None if backend.is_eager() else (random.getstate(), np.random.get_state())

    def __call__(self, weights, batch):
        """Evaluates the loss.

        Args:
            weights: List of tensors, one for each of `model.trainable_variables`.
            batch: `Batch`.

        Returns:
            The scaled loss; then the loss itself, the predictions, and the values that the forward pass would have
            assigned. To which variables, `updated` lists from the first evaluation on.
        """
        if self.random is not None:
            random.setstate(self.random[0])
            np.random.set_state(self.random[1])
        variables = self.model.trainable_variables
        with self.guard() as on_update, Scope(zip(variables, weights), self.state, on_update) as scope:
            y_pred = keras_private.call_for_training(self.model, batch.x)
            loss = keras_private.total_loss(self.model, batch.x, batch.y, y_pred, batch.sample_weight)
        updated = [variable for variable, _ in scope.updates.values()]
        _check_no_weight_is_assigned(updated, variables)
        self.updated = updated if self.updated is None else self.updated
        scaled = loss if self.scale is None else loss * ops.cast(self.scale, loss.dtype)
        return scaled, (loss, y_pred, [value for _, value in scope.updates.values()])


class Passes:
    """The `value_and_grad` that a training step gives to its rule, for one (micro-)batch.

    The state that counts is the first evaluation's: later ones start from the same variables and their updates
    are dropped. Where the rule needs no second pass, later evaluations cost nothing and give the first one's result.

    Args:
        evaluate: Function from a list of weights and a `Batch` to `(scaled loss, (loss, y_pred, values)), gradients`.
        batch: `Batch`, of the evaluations whose gradient is applied.
        ascent_batch: `Batch`, of those that choose ε̂.
        scale: What the optimizer multiplies losses by, or `None`.
        second_pass: `True`, or a boolean tensor: whether evaluations beyond the first are needed.
        all_reduce: Optional function that averages the gradients that choose ε̂ over replicas.
    """

    def __init__(self, evaluate, batch, ascent_batch, scale=None, second_pass=True, all_reduce=None):
        self.evaluate = evaluate
        self.batch = batch
        self.ascent_batch = ascent_batch
        self.scale = scale
        self.second_pass = second_pass
        self.all_reduce = all_reduce
        self.loss = self.perturbed_loss = self.gradient = None

    def __call__(self, weights):
        if self.loss is None:
            self.loss, self.gradient, (self.y_pred, self.values) = self._unscaled(weights)
            return self.loss, self._shared(self.gradient)
        loss, gradient = self._again(weights)
        if not in_ascent():
            self.perturbed_loss = loss
        return loss, self._shared(gradient)

    def sharpness(self):
        """L(w + ε̂) − L(w), 0 where the rule left either of them out."""
        return ops.zeros_like(self.loss) if self.perturbed_loss is None else self.perturbed_loss - self.loss

    def for_optimizer(self, gradient, variables):
        """The rule's gradient, in the units that the optimizer expects."""
        # What the optimizer assigns instead of descending along belongs to the state, which is the first pass's.
        gradient = [first if is_overwritten(v) else g for g, first, v in zip(gradient, self.gradient, variables)]
        if self.scale is None:
            return gradient
        # An infinite gradient of the first pass can leave a finite second one (p = inf), and still has to skip the
        # step.
        finite = [ops.all(ops.isfinite(g)) for g in self.gradient if g is not None]
        scale = ops.where(ops.all(ops.stack(finite)), self.scale, float("nan"))
        return [g if g is None else g * ops.cast(scale, g.dtype) for g in gradient]

    def _unscaled(self, weights):
        batch = self.ascent_batch if in_ascent() else self.batch
        (_, (loss, *state)), gradient = self.evaluate(weights, batch)
        if self.scale is not None:
            gradient = [g if g is None else g / ops.cast(self.scale, g.dtype) for g in gradient]
        return loss, gradient, state

    def _shared(self, gradient):
        """Outside of every conditional, in which no replica can wait for the others."""
        return self.all_reduce(gradient) if self.all_reduce is not None and in_ascent() else gradient

    def _again(self, weights):
        def needed():
            loss, gradient, _ = self._unscaled(weights)
            _check_same_gradients(self.gradient, gradient)
            return loss, gradient

        if self.second_pass is True:
            return needed()
        return backend.cond(self.second_pass, needed, lambda: (self.loss, self.gradient))


def loss_scale(optimizer):
    """What the optimizer multiplies a loss by, or `None` if it leaves losses alone."""
    one = 1.0
    scale = optimizer.scale_loss(one)
    return None if scale is one else ops.stop_gradient(ops.convert_to_tensor(scale, "float32"))


def check_weights(model):
    """Raise a `ValueError` if the model has nothing that its rule could perturb."""
    if not model.trainable_variables:
        raise ValueError(
            f"`{model.name}` has no trainable weights that a rule could perturb, but was compiled with "
            f"`sam={model.sam!r}`. Unfreeze a layer (`layer.trainable = True`), or pass `sam=None`."
        )
    rule = model.sam
    rule.check_variables(model.trainable_variables, model.name)
    if (isinstance(rule.m, int) or rule.ascent_fraction != 1) and any(map(is_overwritten, model.trainable_variables)):
        raise ValueError(
            f"`{model.name}` computes in float8, whose scales are of the largest value in a whole batch, and was "
            f"compiled with `sam={rule!r}`, which looks at parts of it. Expected `m=None` or `m='global'`, and "
            "`ascent_fraction=1`."
        )


def check_not_rematerialized(model):
    """Raise a `ValueError` for layers that recompute their forward pass, after SAM has put other weights in place."""
    for layer in keras_private.rematerialized(model):
        raise ValueError(
            f"The layer `{layer.name}` was made under `keras.RematScope`, which on the {keras.backend.backend()} "
            "backend hides its weights from the gradient at any others than the model's own. Make it outside, or train "
            "with `sam=None`."
        )


def _check_no_weight_is_assigned(updated, variables):
    for variable in updated:
        if any(variable is v for v in variables):
            raise ValueError(
                f"A layer assigns the trainable variable `{variable.path}` while it is called, as "
                "`keras.layers.SpectralNormalization` does. SAM differentiates the loss at weights that it chooses, "
                "which such a layer replaces. Take the layer out, or train with `sam=None`."
            )


def _check_same_gradients(first, second):
    # Run eagerly, a layer can leave out weights that no row needs at w + ε̂, as a mixture of experts does.
    if not backend.is_eager() and [g is None for g in first] != [g is None for g in second]:
        raise ValueError(MISSED_WEIGHTS.format(names="some weights"))


RECOMPUTED = (
    "A layer reads `{path}` to compute its forward pass once more, as with `keras.remat`, `tf.recompute_grad` and "
    "`torch.utils.checkpoint` inside of `call`, where it no longer is what the gradient is to be taken at. Call the "
    "layer without them, or train with `sam=None`."
)
MISSED_WEIGHTS = (
    "The forward pass used its own copy of {names} instead of the weights at which it is evaluated, so the gradient "
    "would be wrong. A `call` wrapped in `tf.function`, `TFSMLayer` and `TorchModuleWrapper` do so. Remove the wrapper "
    "(Keras compiles the whole step anyway), or train with `sam=None`."
)
