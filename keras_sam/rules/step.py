"""What a rule may know of the training step that it serves."""

import contextlib
import contextvars
from typing import Any, NamedTuple

import keras
from keras import ops

# `Step.share` of replica r's micro-batch i is r * SHARES + i: more than a batch has micro-batches.
SHARES = 2**20
# Odd, so that the seeds of shares are far apart, and those that were moved can be moved back, modulo 2³².
STRIDE = 1_640_531_527


class Step(NamedTuple):
    """One training step, as a rule sees it: everything but the model and the data.

    Args:
        rho: Float or scalar tensor, the radius at this step. `rule.step()` computes it from the schedule.
        variables: Optional list of `keras.Variable` or of paths (strings), one a weight, for rules that ask which
            weight is which. Defaults to `None`: all weights are alike.
        state: The rule's own state from the step before, a tuple of lists of tensors, one a weight. Defaults to
            `()`, which is what stateless rules have.
        iteration: Integer or scalar integer tensor, the optimizer's `iterations`. Defaults to `0`.
        share: Integer or scalar integer tensor, which share of the batch this is: one of a replica's micro-batches.
            With the iteration it tells rules that draw random numbers apart. Defaults to `0`.
        momentum: Optional list of tensors, one a weight: the optimizer's average of gradients, in their direction
            and in any unit. Defaults to `None`.
    """

    rho: Any
    variables: Any = None
    state: Any = ()
    iteration: Any = 0
    share: Any = 0
    momentum: Any = None


def select(indices, step, *lists):
    """The step, and the tensors of each list, of the weights of these indices alone; in one dtype, float32 at least."""
    dtype = _common_dtype(lists[0][i].dtype for i in indices)

    def chosen(tensors):
        return [cast(tensors[i], dtype) for i in indices]

    step = step._replace(
        rho=step.rho if isinstance(step.rho, float) else ops.cast(step.rho, dtype),
        variables=step.variables and [step.variables[i] for i in indices],
        state=tuple(chosen(slot) for slot in step.state),
        momentum=step.momentum and chosen(step.momentum),
    )
    return step, *map(chosen, lists)


def path_of(variable):
    """Of a Keras variable, or what a loop without Keras says in its stead."""
    return variable if isinstance(variable, str) else variable.path


def is_overwritten(variable):
    """Whether the optimizer assigns the "gradient" to a variable, as it does to float8's scales."""
    return getattr(variable, "overwrite_with_gradient", False)


def dense(gradient):
    """A gradient whose `tf.IndexedSlices`, in which a row of an embedding can occur twice, are added up by row."""

    def added_up(g):
        return ops.segment_sum(g.values, g.indices, num_segments=g.shape[0])

    return [added_up(g) if type(g).__name__ == "IndexedSlices" else g for g in gradient]


def moved(weights, epsilon):
    """w + ε in the dtypes of w."""
    if epsilon is None:
        return weights
    return [w if e is None else w + cast(e, w.dtype) for w, e in zip(weights, epsilon)]


def cast(tensor, dtype):
    """`ops.cast`, whose many calls that change nothing were felt in torch's eager step."""
    return tensor if tensor.dtype == dtype else ops.cast(tensor, dtype)


def widened(tensor):
    """A tensor of half precision in float32: the digits of a sum of many parts are more than half precision has."""
    is_half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
    return cast(tensor, "float32") if is_half else tensor


def _common_dtype(dtypes):
    """float16 has neither the range nor the digits for a norm over all weights."""
    return "float64" if "float64" in map(keras.backend.standardize_dtype, dtypes) else "float32"


_ascent = contextvars.ContextVar("keras_sam_ascent", default=False)


def in_ascent():
    """Whether the forward pass that is running only chooses the perturbation.

    A layer can ask it in `call`. Shake-Shake and ShakeDrop do: the paper's code mixes their branches the
    same way forward and backward while it looks for ε̂, and independently in the pass whose gradient is applied.
    A pass at w counts as one that chooses ε̂ also for a rule that chooses without it (`RandomPerturbation`) and where a
    schedule gives ρ = 0; so does the product with the Hessian of `second_order`.

    Returns:
        `True` inside such a pass, `False` in every other one.

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
