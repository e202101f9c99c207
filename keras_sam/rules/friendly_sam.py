"""FriendlySAM: the perturbation leaves out what all batches agree on (Li et al. 2024)."""

import keras
from keras import ops

from keras_sam.rules import checks
from keras_sam.rules.norms import norm, steepest_ascent
from keras_sam.rules.sam import SAM


@keras.saving.register_keras_serializable("keras_sam")
class FriendlySAM(SAM):
    """SAM along the noise of a batch's gradient: the part that an average of gradients does not explain.

    ```
    d       = g − sigma * average
    epsilon = rho * d / ‖d‖₂
    applied = ∇L(w + epsilon)
    average = decay * average + (1 − decay) * g       (g at the first step, which has no average to subtract)
    ```

    The average is kept in the optimizer's variables: it is saved and resumed with them, and averaged over replicas
    in each step. Another `compile` starts a fresh one.

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the radius, as in `SAM`. Defaults to `0.05`.
        sigma: Float ≥ 0, how much of the average is left out; 0 is SAM. Defaults to `1.0`.
        decay: Float in [0, 1), what the average keeps of itself in a step. The paper uses 0.6 to 0.95.
            Defaults to `0.9`.
        m: How many examples share one ε̂, as in `SAM`. Defaults to `None`.
        where: Regular expression, which variables are perturbed, as in `SAM`. Defaults to `None`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.FriendlySAM(rho=0.05))

    Reference: [Li et al., 2024](https://arxiv.org/abs/2403.12350), algorithm 1, with the authors' code.
    """

    slots = ("average",)

    def __init__(self, rho=0.05, sigma=1.0, decay=0.9, m=None, where=None):
        super().__init__(rho=rho, m=m, where=where)
        self.sigma = checks.check_not_negative(sigma, "sigma", "how much of the average gradient ε̂ leaves out")
        self.decay = checks.check_decay(decay)

    def perturbation(self, weights, gradient, step):
        (average,) = step.state
        return steepest_ascent([g - self.sigma * a for g, a in zip(gradient, average)], step.rho)

    def descent(self, clean_gradient, gradient, step):
        (average,) = step.state
        # The first gradient is the first average.
        begun = norm(average) > 0
        average = [self.decay * ops.where(begun, a, g) + (1 - self.decay) * g for g, a in zip(clean_gradient, average)]
        return gradient, (average,)

    def get_config(self):
        return self._config("rho", "sigma", "decay", "m", "where")
