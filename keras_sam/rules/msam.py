"""MSAM: the optimizer's momentum chooses the perturbation, so that a step has one gradient (Becker et al. 2024)."""

import keras

from keras_sam.rules.norms import steepest_ascent
from keras_sam.rules.sam import SAM
from keras_sam.rules.step import dense, moved


@keras.saving.register_keras_serializable("keras_sam")
class MSAM(SAM):
    """Momentum-SAM: the gradient is taken where the momentum is about to carry the weights, and beyond.

    ```
    epsilon = −rho * v / ‖v‖₂,    v = the optimizer's average of gradients before this step
    applied = ∇L(w + epsilon)
    ```

    A step costs what plain Keras's does. There is no pass at w: the loss and the metrics that are logged, and
    BatchNormalization's statistics, are those at w + ε, and there is no `sharpness`. The momentum is that of
    `keras.optimizers.SGD(momentum=…)`, `Adam`, `AdamW` or `Lion`.

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the length of ε in units of the weights, often several times
            SAM's. Defaults to `2.0`.
        where: Regular expression, which variables move, as in `SAM`. Defaults to `None`.

    Raises:
        ValueError: If an argument is none of these; in `compile`, if the optimizer has no such momentum.

    Example:

    >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", sam=keras_sam.MSAM(rho=2.0))

    Reference: [Becker et al., 2024](https://arxiv.org/abs/2401.12033), algorithm 1.
    """

    uses_momentum = True
    has_clean_pass = False

    def __init__(self, rho=2.0, where=None):
        super().__init__(rho=rho, where=where)

    def gradient(self, value_and_grad, weights, step):
        if step.momentum is None:
            raise ValueError(
                f"{self!r} needs the optimizer's momentum, and this step has none. Pass the list of its averages of "
                "gradients, one a weight: `rule.step(iterations, variables, momentum=…)`."
            )
        gradient = dense(value_and_grad(moved(weights, self.ascend(weights, step.momentum, step)))[1])
        return gradient, step.state

    def perturbation(self, weights, gradient, step):
        return steepest_ascent(gradient, -step.rho)

    def needs_second_pass(self, step):
        return False

    def get_config(self):
        return self._config("rho", "where")
