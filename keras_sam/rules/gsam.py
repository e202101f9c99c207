"""GSAM: beside the perturbed loss, the gap between it and the loss at w goes down (Zhuang et al. 2022)."""

import keras

from keras_sam.rules import checks
from keras_sam.rules.norms import orthogonal
from keras_sam.rules.sam import SAM


@keras.saving.register_keras_serializable("keras_sam")
class GSAM(SAM):
    """Surrogate-gap guided SAM: SAM's step, and one uphill along the part of ∇L(w) that is orthogonal to g̃.

    ```
    epsilon = rho * g / ‖g‖₂,    g̃ = ∇L(w + epsilon)
    applied = g̃ − alpha * (g − ⟨g, g̃⟩ / ‖g̃‖² g̃)
    ```

    Along that part the perturbed loss does not change, so that it falls as before, while the loss at w rises towards
    it. The paper lets ρ follow the learning rate: `keras_sam.schedules.LinkedToLearningRate`.

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the radius, as in `SAM`. Defaults to `0.05`.
        alpha: Float ≥ 0, the weight of the orthogonal part; 0 is SAM. Defaults to `0.4`.
        m: How many examples share one ε̂, as in `SAM`, but `"global"` is not for several replicas of `tf.distribute`.
            Defaults to `None`.
        where: Regular expression, which variables are perturbed, as in `SAM`. Defaults to `None`.

    Raises:
        ValueError: If an argument is none of these; in `compile`, for `m="global"` on several replicas.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.GSAM(rho=0.05, alpha=0.4))

    Reference: [Zhuang et al., 2022](https://arxiv.org/abs/2203.08065), algorithm 1.
    """

    compares_gradients = True

    def __init__(self, rho=0.05, alpha=0.4, m=None, where=None):
        super().__init__(rho=rho, m=m, where=where)
        self.alpha = checks.check_not_negative(alpha, "alpha", "the weight of the orthogonal part of the gradient")

    def descent(self, clean_gradient, gradient, step):
        return [g - self.alpha * o for g, o in zip(gradient, orthogonal(clean_gradient, gradient))], step.state

    def get_config(self):
        return self._config("rho", "alpha", "m", "where")
