"""The evaluations of the loss that one training step makes: functional, all from the same state."""

import keras
from keras import ops

from keras_sam.backend import keras_private


class Scope(keras.StatelessScope):
    """A stateless scope that knows which variables were updated in it, those that are no model's included."""

    def __init__(self, state_mapping, on_update=None):
        super().__init__(state_mapping=state_mapping, collect_losses=True)
        self.on_update = on_update
        self.updates = {}

    def add_update(self, update):
        variable, value = update
        if self.on_update is not None:
            self.on_update(variable)
        self.updates[id(variable)] = (variable, value)
        super().add_update(update)


def check_has_weights(model):
    if not model.trainable_variables:
        raise ValueError(
            f"`{model.name}` has no trainable weights that a rule could perturb, but was compiled with "
            f"`sam={model.sam!r}`. Unfreeze a layer (`layer.trainable = True`), or pass `sam=None`."
        )


def forward(model, weights, x, y, sample_weight, on_update=None):
    """The training loss with `weights` in place of the model's, which no variable notices.

    Args:
        model: A compiled `SAMTrainer` model.
        weights: List of tensors, one for each of `model.trainable_variables`.
        x: Inputs, as `fit` passes them to `train_step`; `y` and `sample_weight` likewise.
        on_update: Optional function called with each variable that the forward pass updates.

    Returns:
        The loss, scaled as the optimizer asks; then the loss itself, the predictions, and the updates that the
        forward pass would have made, as pairs of a variable and its value.
    """
    variables = model.trainable_variables
    with Scope(zip(variables, weights), on_update) as scope:
        y_pred = keras_private.call_for_training(model, x)
        loss = keras_private.total_loss(model, x, y, y_pred, sample_weight)
    updates = list(scope.updates.values())
    for variable, _ in updates:
        if any(variable is v for v in variables):
            raise ValueError(
                f"A layer assigns the trainable variable `{variable.path}` while it is called, as "
                "`keras.layers.SpectralNormalization` does. SAM differentiates the loss at weights that it chooses, "
                "which such a layer replaces. Take the layer out, or train with `sam=None`."
            )
    return model.optimizer.scale_loss(loss), (loss, y_pred, updates)


class Passes:
    """The `value_and_grad` that a training step gives to its rule.

    The state that counts is the first evaluation's: later ones start from the same variables and their updates
    are dropped. Where the rule needs no second pass, later evaluations cost nothing and give the first one's result.

    Args:
        evaluate: Function from a list of weights to the scaled loss, its auxiliary values and its gradients.
        scale: What the optimizer multiplies losses by, or `None`.
        second_pass: `True`, or a boolean tensor: whether evaluations beyond the first are needed.
    """

    def __init__(self, evaluate, scale=None, second_pass=True):
        self.evaluate = evaluate
        self.scale = scale
        self.second_pass = second_pass
        self.losses = []

    def __call__(self, weights):
        if not self.losses:
            loss, self.gradient, (self.y_pred, self.updates) = self._unscaled(weights)
            self.losses.append(loss)
            return loss, self.gradient
        loss, gradient = self._again(weights)
        self.losses.append(loss)
        return loss, gradient

    def sharpness(self):
        """L(w + ε̂) − L(w), or `None` if there was one evaluation only."""
        return self.losses[-1] - self.losses[0] if len(self.losses) > 1 else None

    def _unscaled(self, weights):
        (_, (loss, *state)), gradient = self.evaluate(weights)
        if self.scale is not None:
            gradient = [g if g is None else g / ops.cast(self.scale, g.dtype) for g in gradient]
        return loss, gradient, state

    def _again(self, weights):
        if self.second_pass is True:
            loss, gradient, _ = self._unscaled(weights)
            _check_same_gradients(self.gradient, gradient)
            return loss, gradient

        # A conditional returns tensors alone, so what has no gradient stays outside.
        present = [i for i, g in enumerate(self.gradient) if g is not None]

        def needed():
            loss, gradient, _ = self._unscaled(weights)
            _check_same_gradients(self.gradient, gradient)
            return loss, [gradient[i] for i in present]

        loss, tensors = ops.cond(
            self.second_pass, needed, lambda: (self.losses[0], [self.gradient[i] for i in present])
        )
        gradient = [None] * len(self.gradient)
        for i, tensor in zip(present, tensors):
            gradient[i] = tensor
        return loss, gradient


def _check_same_gradients(first, second):
    if [g is None for g in first] != [g is None for g in second]:
        raise ValueError(MISSED_WEIGHTS.format(names="some weights"))


MISSED_WEIGHTS = (
    "The forward pass used its own copy of {names} instead of the weights at which SAM evaluates it, so the gradient "
    "would be wrong. A `call` wrapped in `tf.function`, `TFSMLayer` and `TorchModuleWrapper` do so. Remove the wrapper "
    "(Keras compiles the whole step anyway), or train with `sam=None`."
)
