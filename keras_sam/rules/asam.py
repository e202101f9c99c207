"""ASAM: the neighbourhood is scaled by the weights, so that rescaling a layer changes nothing (Kwon et al. 2021)."""

import re

import keras
from keras import ops

from keras_sam.rules import checks
from keras_sam.rules.norms import norm, safe_inverse
from keras_sam.rules.sam import SAM
from keras_sam.rules.step import path_of


@keras.saving.register_keras_serializable("keras_sam")
class ASAM(SAM):
    """SAM with a perturbation proportional to the weights.

    ```
    T       = |w| + eta           (1 for biases and for beta, the shift of a normalization)
    epsilon = rho * T² g / ‖T g‖₂
    applied = ∇L(w + epsilon)
    ```

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the radius in units of the scaled weights, 2 to 10 times SAM's.
            Defaults to `0.5`.
        eta: Float ≥ 0, added to every |w| so that a zero weight can move. Defaults to `0.01`.
        m: How many examples share one ε̂, as in `SAM`. Defaults to `None`.
        where: Regular expression, which variables move, as in `SAM`. Defaults to `None`.

    Raises:
        ValueError: If an argument is none of these; in a loop of one's own, if `rule.step` was not given the variables
            or their paths.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.ASAM(rho=0.5))

    Reference: [Kwon et al., 2021](https://arxiv.org/abs/2102.11600), eq. 8 and algorithm 1.
    """

    def __init__(self, rho=0.5, eta=0.01, m=None, where=None):
        super().__init__(rho=rho, m=m, where=where)
        self.eta = checks.check_not_negative(eta, "eta", "added to every |w| so that a zero weight can move")

    def perturbation(self, weights, gradient, step):
        checks.check_has_paths(step.variables, "`ASAM` tells biases, which it does not scale, by")
        # Where w are torch's parameters, the gradient at w + ε̂ would flow into them through ε̂ as well.
        weights = [ops.stop_gradient(w) for w in weights]
        scale = [1.0 if _is_bias(path_of(v)) else ops.abs(w) + self.eta for w, v in zip(weights, step.variables)]
        scaled = [t * g for t, g in zip(scale, gradient)]
        factor = step.rho * safe_inverse(norm(scaled))
        return [factor * t * s for t, s in zip(scale, scaled)]

    def get_config(self):
        return self._config("rho", "eta", "m", "where")


def _is_bias(path):
    name = re.split("[/.]", path)[-1]
    return name.endswith("bias") or name == "beta"
