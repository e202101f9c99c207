"""SAM: the gradient is taken where the loss is highest nearby (Foret et al. 2021, Algorithm 1)."""

import math
import numbers

import keras
from keras import ops

from keras_sam.rules.norms import steepest_ascent
from keras_sam.rules.step import Step, ascent

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable("keras_sam")
class SAM:
    """Sharpness-Aware Minimization: descend along the gradient at the worst point nearby.

    ```
    g       = ∇L(w)
    epsilon = rho * sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p),    1/p + 1/q = 1
    applied = ∇L(w + epsilon)
    ```

    Every other rule is a subclass that overrides one idea of this one.

    Args:
        rho: Float ≥ 0, the radius of the neighbourhood in units of the weights, or a
            `keras.optimizers.schedules.LearningRateSchedule` of it over `optimizer.iterations`. Where a schedule
            gives 0 the second pass is skipped; a constant `0` is plain Keras. Defaults to `0.05`.
        p: Float in [1, ∞], the norm of the neighbourhood: `2.0` is a sphere, `math.inf` (or `"inf"`) a cube.
            Defaults to `2.0`.

    Raises:
        ValueError: If `rho` is negative, not finite or not a number, or if `p` is below 1.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.SAM(rho=0.1))

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), eq. 2 and 3.
    """

    def __init__(self, rho=0.05, p=2.0):
        self.rho = _check_rho(rho)
        self.p = _check_p(p)

    def gradient(self, value_and_grad, weights, step):
        """The gradient to hand to the optimizer, which applies it at `weights`.

        Args:
            value_and_grad: Function from a list of weights to the loss there and the list of its gradients,
                with `None` for a weight that the loss does not depend on.
            weights: List of tensors.
            step: `Step`, what else the rule knows.

        Returns:
            The list of gradients, and the rule's new state (`()` for a rule without).
        """
        with ascent():
            _, gradient = value_and_grad(weights)
        perturbed = self.perturb(weights, gradient, step)
        _, gradient = value_and_grad(perturbed)
        return gradient, step.state

    def perturb(self, weights, gradient, step):
        """w + ε̂ in the dtypes of w. A weight without a gradient stays, as one that the optimizer overwrites does."""
        moved = [i for i, g in enumerate(gradient) if g is not None and not _is_overwritten(step.variables, i)]
        if not moved:
            return weights
        # float16 has neither the range nor the digits for a norm over all weights.
        dtypes = [keras.backend.result_type(weights[i].dtype, "float32") for i in moved]
        epsilon = self.perturbation(
            [ops.cast(weights[i], d) for i, d in zip(moved, dtypes)],
            [ops.cast(gradient[i], d) for i, d in zip(moved, dtypes)],
            step._replace(variables=step.variables and [step.variables[i] for i in moved]),
        )
        perturbed = list(weights)
        for i, e in zip(moved, epsilon):
            perturbed[i] = weights[i] + ops.cast(e, weights[i].dtype)
        return perturbed

    def perturbation(self, weights, gradient, step):
        """ε̂ of equation 2, one tensor a weight."""
        return steepest_ascent(gradient, step.rho, self.p)

    def step(self, iterations, variables=None, state=()):
        """The `Step` record at an iteration: ρ read off its schedule.

        Args:
            iterations: Integer or scalar integer tensor, the optimizer's `iterations`.
            variables: Optional list of `keras.Variable`, one a weight. Defaults to `None`.
            state: The rule's state. Defaults to `()`.
        """
        rho = self.rho(iterations) if isinstance(self.rho, Schedule) else self.rho
        return Step(rho, variables, state)

    def needs_second_pass(self, step):
        """Whether this step evaluates a gradient beyond the one at w: `True`, or a boolean tensor."""
        return ops.greater(step.rho, 0) if isinstance(self.rho, Schedule) else True

    def get_config(self):
        rho = keras.saving.serialize_keras_object(self.rho) if isinstance(self.rho, Schedule) else self.rho
        # JSON has no infinity.
        return {"rho": rho, "p": "inf" if self.p == math.inf else self.p}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        rho = type(self.rho).__name__ if isinstance(self.rho, Schedule) else self.rho
        return f"{type(self).__name__}(rho={rho}, p={self.p})"


def _is_overwritten(variables, index):
    """The optimizer assigns the "gradient" of such a variable (a float8 scale): it is no direction to walk along."""
    return variables is not None and getattr(variables[index], "overwrite_with_gradient", False)


def _check_rho(rho):
    if isinstance(rho, dict):
        rho = keras.saving.deserialize_keras_object(rho)
    if isinstance(rho, Schedule):
        return rho
    if isinstance(rho, bool) or not isinstance(rho, numbers.Real) or not 0 <= float(rho) < math.inf:
        raise ValueError(
            f"`rho` is the radius of SAM's neighbourhood. Received `rho={rho!r}`; expected a finite float ≥ 0 "
            "(0.05 is a good start, 0 turns SAM off) or a `keras.optimizers.schedules.LearningRateSchedule`."
        )
    return float(rho)


def _check_p(p):
    try:
        number = math.nan if isinstance(p, bool) else float(p)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 1:
        raise ValueError(
            f"`p` names the norm of SAM's neighbourhood. Received `p={p!r}`; expected a number in [1, ∞]: "
            "2 for a sphere (the paper's choice), `math.inf` for a cube, 1 to move one weight."
        )
    return number
