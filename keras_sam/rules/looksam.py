"""LookSAM: SAM's gradient every k steps, and in between what it taught (Liu et al. 2022)."""

import numbers

import keras
from keras import ops

from keras_sam.rules import checks
from keras_sam.rules.norms import norm, orthogonal, safe_inverse
from keras_sam.rules.sam import SAM


@keras.saving.register_keras_serializable("keras_sam")
class LookSAM(SAM):
    """SAM every k-th step; its part orthogonal to the gradient is used again in the steps between.

    ```
    every k steps:   applied = g̃ = ∇L(w + rho * g / ‖g‖₂),    v = g̃ − ⟨g̃, g⟩ / ‖g‖² g
    else:            applied = g + alpha * ‖g‖ v / ‖v‖
    ```

    The steps between cost what plain Keras's do. v is kept in the optimizer's variables: it is saved and resumed with
    them, and averaged over replicas in each step. Another `compile` starts a fresh one.

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the radius, that of `SAM` or more. Defaults to `0.05`.
        k: Integer ≥ 1, the steps from one gradient of SAM to the next; 1 is SAM. Defaults to `5`.
        alpha: Float ≥ 0, the length of the reused part in units of the gradient. Defaults to `0.1`; the 0.7 of
            the paper is for large batches, and can be too much.
        m: How many examples share one ε̂, as in `SAM`, but `"global"` is not for several replicas of `tf.distribute`.
            Defaults to `None`.
        where: Regular expression, which variables are perturbed, as in `SAM`. Defaults to `None`.

    Raises:
        ValueError: If an argument is none of these; in `compile`, for `m="global"` on several replicas.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.LookSAM(rho=0.05, k=5))

    Reference: [Liu et al., 2022](https://arxiv.org/abs/2203.02714), algorithm 1.
    """

    slots = ("orthogonal",)
    compares_gradients = True

    def __init__(self, rho=0.05, k=5, alpha=0.1, m=None, where=None):
        super().__init__(rho=rho, m=m, where=where)
        self.k = checks.check_k(k, "LookSAM")
        self.alpha = checks.check_not_negative(alpha, "alpha", "the length of the reused part of SAM's gradient")

    def needs_second_pass(self, step):
        needed = super().needs_second_pass(step)
        return self._is_due(step) if needed is True else ops.logical_and(self._is_due(step), needed)

    def descent(self, clean_gradient, gradient, step):
        (kept,) = step.state
        due = self._is_due(step)
        # Where ρ is 0, g̃ is g, and what is left of their difference is rounding.
        new = [ops.where(step.rho > 0, v, 0.0) for v in orthogonal(gradient, clean_gradient)]
        kept = [ops.where(due, n, v) for n, v in zip(new, kept)]
        factor = self.alpha * norm(clean_gradient) * safe_inverse(norm(kept))
        reused = [g + factor * v for g, v in zip(clean_gradient, kept)]
        return [ops.where(due, g, r) for g, r in zip(gradient, reused)], (kept,)

    def _is_due(self, step):
        if isinstance(step.iteration, numbers.Integral):
            return bool(step.iteration % self.k == 0)
        return self.k == 1 or ops.equal(ops.mod(step.iteration, self.k), 0)

    def get_config(self):
        return self._config("rho", "k", "alpha", "m", "where")
