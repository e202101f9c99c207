"""SAM: the gradient is taken where the loss is highest nearby (Foret et al. 2021, Algorithm 1)."""

import inspect
import math
import re

import keras
from keras import ops

from keras_sam.rules import checks
from keras_sam.rules.norms import into_ball, steepest_ascent
from keras_sam.rules.second_order import second_order_term
from keras_sam.rules.step import Step, ascent, cast, dense, is_overwritten, moved, path_of, select


@keras.saving.register_keras_serializable("keras_sam")
class SAM:
    """Sharpness-Aware Minimization: descend along the gradient at the worst point nearby.

    ```
    g       = ∇L(w)
    epsilon = rho * sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p),    1/p + 1/q = 1
    applied = ∇L(w + epsilon)
    ```

    Every other rule is a subclass that overrides an idea of this one: the `perturbation`, the `descent`, or which
    gradients are taken.

    Args:
        rho: Float ≥ 0, the radius of the neighbourhood in units of the weights, or a
            `keras.optimizers.schedules.LearningRateSchedule` of it over `optimizer.iterations`. Where a schedule
            gives 0 the second pass is skipped; a constant `0` is plain Keras. Defaults to `0.05`.
        p: Float in [1, ∞], the norm of the neighbourhood: `2.0` is a sphere, `math.inf` (or `"inf"`) a cube.
            Defaults to `2.0`.
        m: How many examples share one ε̂ (section 4.1). `None`: those of a replica's batch. An integer: micro-batches
            of that size, one after the other, of which the last may be smaller; their SAM gradients, losses and
            BatchNormalization statistics are averaged by their numbers of examples. `"global"`: the batches of all
            replicas. Smaller values ask for a smaller `rho`. Defaults to `None`.
        ascent_steps: Integer, the gradients that choose ε̂: that many steps of length `rho` in the ball, each scaled
            back into it (appendix C.6). A training step costs one gradient more. Defaults to `1`.
        ascent_fraction: Float in (0, 1], the share of the (micro-)batch, from its start, that chooses ε̂. The loss and
            the metrics that are logged are of that share, and so are BatchNormalization's statistics; `sharpness` is
            the loss of the whole at w + ε̂ less that of the share at w. A training step costs 1 + `ascent_fraction`
            plain ones, also where a schedule of `rho` is 0. Defaults to `1.0`.
        second_order: Boolean, whether to add the term dropped before equation 3, the derivative of ε̂ by w: a product
            with the Hessian (appendix C.4). Needs `p` in (1, 2], a single ascent step and an `m` of one replica. A
            training step costs as much where a schedule of `rho` is 0. Defaults to `False`.
        where: Regular expression searched in each `variable.path`; what does not match is not perturbed, and the norm
            is that of the others. `"(gamma|beta)$"` is SAM-ON. Defaults to `None`, every trainable variable.

    Raises:
        ValueError: If an argument is none of these; in `compile`, if `where` matches nothing.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.SAM(rho=0.1, m=32))

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), eq. 2 and 3, 4.1, C.4 to C.6;
    [Brock et al., 2021](https://arxiv.org/abs/2102.06171) (`ascent_fraction`);
    [Mueller et al., 2023](https://arxiv.org/abs/2306.04226) (SAM-ON).
    """

    # The names of the lists of tensors, one a weight, that the rule keeps from step to step. They start at 0.
    slots = ()
    # Whether `step.momentum` has to be there, and whether there is a pass at w, without which there is no sharpness.
    uses_momentum = False
    has_clean_pass = True
    # Whether the gradients at w and at w + ε̂ have to be those of the same examples.
    compares_gradients = False

    def __init__(self, rho=0.05, p=2.0, m=None, ascent_steps=1, ascent_fraction=1.0, second_order=False, where=None):
        self.rho = checks.check_rho(rho)
        self.p = checks.check_p(p)
        self.m = checks.check_m(m)
        self.ascent_steps = checks.check_ascent_steps(ascent_steps)
        self.ascent_fraction = checks.check_ascent_fraction(ascent_fraction)
        self.second_order = checks.check_second_order(second_order, self.p, self.m, self.ascent_steps)
        self.where = checks.check_where(where)

    def gradient(self, value_and_grad, weights, step):
        """The gradient to hand to the optimizer, which applies it at `weights`.

        ```
        epsilon = 0
        repeat ascent_steps times:
            epsilon = into_ball(epsilon + perturbation(∇L(w + epsilon)))
        applied = descent(∇L(w), ∇L(w + epsilon)  [+ (∂epsilon/∂w)ᵀ ∇L(w + epsilon), second_order])
        ```

        Custom training loops call it: see `examples/`. The loss and the state (BatchNormalization's statistics,
        say) that count are those of the first call of `value_and_grad`, which is made at `weights`. An integer `m`, and
        `ascent_fraction`, which choose examples, are left to the loop: it has them.

        Args:
            value_and_grad: Function from a list of weights to the loss there and the list of its gradients,
                with `None` for a weight that the loss does not depend on. `keras_sam.backend.value_and_grad` and
                `jax.value_and_grad` make one. Each call has to use the same batch and the same random numbers.
            weights: List of tensors.
            step: `Step`, what else the rule knows: `rule.step(optimizer.iterations, variables)`.

        Returns:
            The list of gradients; and the rule's new state, to be given to `rule.step` the next time (`()` for a rule
            without).

        Raises:
            ValueError: If `where` is given, or the rule is `ASAM`, and `step.variables` is not; if they are not one a
                weight; or if `second_order` finds no second derivative.

        Example:

        >>> value_and_grad = keras_sam.backend.value_and_grad(lambda w: keras.ops.sum(w[0] ** 2))
        >>> rule = keras_sam.SAM(rho=0.5)
        >>> gradient, _ = rule.gradient(value_and_grad, [keras.ops.convert_to_tensor([3.0, 4.0])], rule.step(0))
        >>> keras.ops.convert_to_numpy(gradient[0])
        array([6.6, 8.8], dtype=float32)
        """
        if self.slots and not step.state:
            step = step._replace(state=tuple([ops.zeros_like(w) for w in weights] for _ in self.slots))
        clean_gradient = epsilon = None
        with ascent():
            for _ in range(self.ascent_steps):
                ascent_gradient = dense(value_and_grad(moved(weights, epsilon))[1])
                clean_gradient = ascent_gradient if clean_gradient is None else clean_gradient
                epsilon = self.ascend(weights, ascent_gradient, step, epsilon)
        if self.needs_second_pass(step) is False:
            return self._descend(clean_gradient, clean_gradient, step)
        gradient = dense(value_and_grad(moved(weights, epsilon))[1])
        if self.second_order:
            with ascent():
                term = second_order_term(self, value_and_grad, weights, clean_gradient, gradient, epsilon, step)
            gradient = [_sum(g, t) if c is not None else g for g, t, c in zip(gradient, term, clean_gradient)]
        return self._descend(clean_gradient, gradient, step)

    def ascend(self, weights, gradient, step, epsilon=None):
        """ε̂ one ascent step further, in float32 at least.

        `None` stands for a weight that stays: without a gradient so far, not matched by `where`, or one that the
        optimizer overwrites, whose "gradient" (a float8 scale) is no direction.

        Args:
            weights: List of tensors, w. `gradient` and `step` are those of `gradient`.
            epsilon: What the ascent step before returned, at which `gradient` was taken. Defaults to `None`, no step.
        """
        checks.check_one_a_weight(step.variables, weights)
        indices = [i for i, g in enumerate(gradient) if g is not None and self._is_perturbed(step.variables, i)]
        if not indices:
            return [None] * len(weights) if epsilon is None else epsilon
        step, chosen_weights, chosen_gradient = select(indices, step, weights, gradient)
        moves = dict(zip(indices, self.perturbation(chosen_weights, chosen_gradient, step)))
        if epsilon is not None:
            # A weight that has a gradient in one of the steps alone moves in that one.
            sums = {i: _sum(moves.get(i), e) for i, e in enumerate(epsilon) if i in moves or e is not None}
            moves = dict(zip(sums, into_ball(list(sums.values()), step.rho, self.p)))
        return [moves.get(i) for i in range(len(weights))]

    def perturbation(self, weights, gradient, step):
        """ε̂ of equation 2, one tensor a weight."""
        return steepest_ascent(gradient, step.rho, self.p)

    def descent(self, clean_gradient, gradient, step):
        """What is applied, given the gradients at w and at w + ε̂, of the weights that have one; and the new state."""
        return gradient, step.state

    def step(self, iterations, variables=None, state=(), momentum=None):
        """The `Step` record at an iteration: ρ read off its schedule.

        Args:
            iterations: Integer or scalar integer tensor, the optimizer's `iterations`.
            variables: Optional list of `keras.Variable`, or of paths (strings such as `"dense/bias"`, or torch's
                `"0.bias"`), one a weight. `where` and `ASAM` ask for it. Defaults to `None`.
            state: The rule's state, as `gradient` returned it. Defaults to `()`, no step yet.
            momentum: Optional list of tensors, one a weight, for rules that ask for it. Defaults to `None`.
        """
        rho = self.rho(iterations) if isinstance(self.rho, checks.Schedule) else self.rho
        return Step(rho, variables, state, iterations, momentum=momentum)

    def needs_second_pass(self, step):
        """Whether this step evaluates a gradient beyond the one at w: a boolean, or a boolean tensor."""
        return ops.greater(step.rho, 0) if isinstance(self.rho, checks.Schedule) else True

    @property
    def perturbs(self):
        """Whether any step may look elsewhere than at w: with a constant radius of 0 none does."""
        return self.rho != 0

    def check_variables(self, variables, name):
        """Raise a `ValueError` if this rule would perturb none of `variables`, those of the model `name`."""
        checks.check_where_matches(self.where, variables, name)

    def get_config(self):
        return self._config("rho", "p", "m", "ascent_steps", "ascent_fraction", "second_order", "where")

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        rho = type(self.rho).__name__ if isinstance(self.rho, checks.Schedule) else self.rho
        defaults = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        # Not all of `get_config`, since a schedule need not have one.
        config = self._config(*(name for name in defaults if name != "rho" and hasattr(self, name)))
        others = [f"{k}={v!r}" for k, v in config.items() if v != defaults[k]]
        return f"{type(self).__name__}({', '.join([f'rho={rho}', *others])})"

    def _config(self, *names):
        values = {name: checks.serialized(getattr(self, name)) for name in names}
        # JSON has no infinity.
        return {name: "inf" if value == math.inf else value for name, value in values.items()}

    def _descend(self, clean_gradient, gradient, step):
        """`descent` of the weights that the optimizer descends along, in float32 at least."""
        variables = step.variables or [None] * len(gradient)
        indices = [
            i
            for i, (g, clean, v) in enumerate(zip(gradient, clean_gradient, variables, strict=True))
            if g is not None and clean is not None and not is_overwritten(v)
        ]
        if not indices:
            return gradient, step.state
        chosen_step, clean, perturbed = select(indices, step, clean_gradient, gradient)
        applied, chosen_state = self.descent(clean, perturbed, chosen_step)
        gradient, state = list(gradient), tuple(list(slot) for slot in step.state)
        for old, new in zip([gradient, *state], [applied, *chosen_state], strict=True):
            for i, tensor in zip(indices, new, strict=True):
                old[i] = cast(tensor, old[i].dtype)
        return gradient, state

    def _is_perturbed(self, variables, index):
        if variables and is_overwritten(variables[index]):
            return False
        if self.where is None:
            return True
        checks.check_has_paths(variables, f"`where={self.where!r}` is searched in")
        return re.search(self.where, path_of(variables[index])) is not None


def _sum(gradient, term):
    if gradient is None or term is None:
        return term if gradient is None else gradient
    return gradient + ops.cast(term, gradient.dtype)
