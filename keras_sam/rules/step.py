"""What a rule may know of the training step that it serves."""

import contextlib
import contextvars
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One training step, as a rule sees it: everything but the model and the data.

    Args:
        rho: Float or scalar tensor, the radius at this step. `rule.step()` computes it from the schedule.
        variables: Optional list of `keras.Variable`, one a weight, for rules that look at a weight's path
            or shape. Defaults to `None`: all weights are alike.
        state: The rule's own state from the step before. Defaults to `()`, which is what stateless rules have.
        iteration: Integer or scalar integer tensor, the optimizer's `iterations`. Defaults to `0`.
        share: Integer or scalar integer tensor, which share of the batch this is: one of a replica's micro-batches.
            With the iteration it tells rules that draw random numbers apart. Defaults to `0`.
    """

    rho: Any
    variables: Any = None
    state: Any = ()
    iteration: Any = 0
    share: Any = 0


_ascent = contextvars.ContextVar("keras_sam_ascent", default=False)


def in_ascent():
    """Whether the forward pass that is running only chooses the perturbation.

    A layer can ask it in `call`. Shake-Shake and ShakeDrop do: the paper's code mixes their branches the
    same way forward and backward while it looks for ε̂, and independently in the pass whose gradient is applied.

    Returns:
        `True` inside a pass that chooses ε̂, `False` in every other forward pass.

    Example:

    >>> keras_sam.in_ascent()
    False

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), appendix C.1.
    """
    return _ascent.get()


@contextlib.contextmanager
def ascent():
    token = _ascent.set(True)
    try:
        yield
    finally:
        _ascent.reset(token)
