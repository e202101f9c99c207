"""Equation 2 of the paper: the steepest ascent direction of a p-norm ball, over a list of tensors."""

import math

from keras import ops

# The smallest normal float32: the inverse of anything smaller overflows.
SMALLEST = 1.1754944e-38


def norm(tensors, p=2.0):
    """The p-norm of all entries of a list of tensors together; 0 where every entry is 0."""
    if p == 2:
        # Not divided by the largest entry first, as below, for the sake of speed: only norms beyond 1e19, or below
        # 1e-19, have squares that float32 cannot hold.
        return ops.sqrt(_total(ops.sum(ops.square(t)) for t in tensors))
    # A weight without entries has no largest one.
    tensors = [t for t in tensors if 0 not in t.shape]
    largest = ops.max(ops.stack([ops.max(ops.abs(t)) for t in tensors]))
    if p == math.inf:
        return largest
    # Relative to the largest entry no power can overflow, and the sum is at least 1.
    inverse = safe_inverse(largest)
    return largest * ops.power(_total(ops.sum(ops.power(ops.abs(t) * inverse, p)) for t in tensors), 1.0 / p)


def dot(first, second):
    """⟨a, b⟩ over all entries of two lists of tensors."""
    return _total(ops.sum(a * b) for a, b in zip(first, second, strict=True))


def orthogonal(tensors, direction):
    """What is left of a list of tensors without its component along another; all of it where that one is 0."""
    factor = dot(tensors, direction) * safe_inverse(dot(direction, direction))
    return [t - factor * d for t, d in zip(tensors, direction)]


def _total(scalars):
    """All at once: a chain of additions would be a part of the step in which nothing else can run."""
    return ops.sum(ops.stack(list(scalars)))


def steepest_ascent(gradient, rho, p=2.0):
    """The ε of p-norm ρ along which a loss with this gradient rises fastest.

    ```
    epsilon = rho * sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p),    1/p + 1/q = 1
    ```

    For `p=2` this is `rho * g / ‖g‖₂`, for `p=inf` it is `rho * sign(g)`, and for `p=1` the one
    entry with the largest |g| (the first of equals) moves by `rho`. A zero gradient gives zeros.

    Args:
        gradient: List of float tensors.
        rho: Float or scalar tensor, the norm of the result.
        p: Float in [1, ∞]. Defaults to `2.0`.

    Returns:
        List of tensors of the shapes of `gradient`.

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), eq. 2.
    """
    if p == 1:
        return _largest_entry(gradient, rho)
    if p == math.inf:
        return [rho * ops.sign(g) for g in gradient]
    if p == 2:
        factor = rho * safe_inverse(norm(gradient))
        return [factor * g for g in gradient]
    q = p / (p - 1)
    # Equation 2 does not change when g is scaled, so g / ‖g‖_q stands in for g, whose powers could overflow.
    inverse = safe_inverse(norm(gradient, q))
    return [rho * ops.sign(g) * ops.power(ops.abs(g) * inverse, q - 1) for g in gradient]


def into_ball(epsilon, rho, p=2.0):
    """ε scaled back into the ball of p-norm ρ where it left it: ε · min(1, ρ / ‖ε‖_p)."""
    length = norm(epsilon, p)
    factor = ops.where(length > rho, rho * safe_inverse(length), 1.0)
    return [factor * e for e in epsilon]


def safe_inverse(x):
    """1 / x, and 0 where x is 0 or too small to invert: such a gradient chooses no direction."""
    vanishes = x < SMALLEST
    return ops.where(vanishes, 0.0, 1.0 / ops.where(vanishes, 1.0, x))


def _largest_entry(gradient, rho):
    flat = ops.concatenate([ops.reshape(g, [-1]) for g in gradient])
    chosen = ops.one_hot(ops.argmax(ops.abs(flat)), flat.shape[0], dtype=flat.dtype)
    epsilon = rho * ops.sign(flat) * chosen
    parts, start = [], 0
    for g in gradient:
        size = math.prod(g.shape)
        parts.append(ops.reshape(epsilon[start : start + size], g.shape))
        start += size
    return parts
