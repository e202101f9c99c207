"""What the arguments of a rule may be: a check says what was expected, or returns the value to keep."""

import difflib
import math
import numbers
import re

import keras

Schedule = keras.optimizers.schedules.LearningRateSchedule


def check_rho(rho):
    if isinstance(rho, dict):
        rho = keras.saving.deserialize_keras_object(rho)
    if isinstance(rho, Schedule):
        return rho
    if not _is_real(rho) or not 0 <= float(rho) < math.inf:
        raise ValueError(
            f"`rho` is the radius of SAM's neighbourhood. Received `rho={rho!r}`; expected a finite float ≥ 0 "
            "(0.05 is a good start, 0 turns SAM off) or a `keras.optimizers.schedules.LearningRateSchedule`."
        )
    return float(rho)


def serialized(value):
    """What a config has for a number or a schedule."""
    return keras.saving.serialize_keras_object(value) if isinstance(value, Schedule) else value


def check_p(p):
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


def check_m(m):
    if m is None or m == "global":
        return m
    if not _is_integer(m) or m < 1:
        raise ValueError(
            f"`m` is the number of examples that share one ε̂. Received `m={m!r}`; expected an integer ≥ 1, `None` for "
            "the whole batch of a replica, or 'global' for the batches of all replicas together."
        )
    return int(m)


def check_ascent_steps(steps):
    if not _is_integer(steps) or steps < 1:
        raise ValueError(
            f"`ascent_steps` counts the gradients that choose ε̂. Received `ascent_steps={steps!r}`; expected an "
            "integer ≥ 1. A step of training costs one gradient more than that; 1 is the paper's choice."
        )
    return int(steps)


def check_ascent_fraction(fraction):
    if not _is_real(fraction) or not 0 < fraction <= 1:
        raise ValueError(
            "`ascent_fraction` is the share of the batch that chooses ε̂. Received "
            f"`ascent_fraction={fraction!r}`; expected a number in (0, 1], such as 0.25. For no perturbation at all "
            "use `rho=0`."
        )
    return float(fraction)


def check_second_order(second_order, p, m, ascent_steps):
    if not isinstance(second_order, bool):
        raise ValueError(f"Received `second_order={second_order!r}`; expected `True` or `False`.")
    if not second_order:
        return False
    if p == 1 or p == math.inf:
        raise ValueError(
            f"Received `second_order=True` with `p={p}`, for which ε̂ is piecewise constant, so that its derivative "
            "is 0. Leave `second_order` out, which is the same gradient for less, or use a `p` in (1, 2]."
        )
    if p > 2:
        raise ValueError(
            f"Received `second_order=True` with `p={p}`; expected a `p` in (1, 2]: beyond 2, ε̂ has no derivative "
            "where an entry of the gradient is 0, as it is for every inactive ReLU."
        )
    if ascent_steps > 1:
        raise ValueError(
            f"Received `second_order=True` with `ascent_steps={ascent_steps}`; expected `ascent_steps=1`: the term "
            "is the derivative of the closed form of ε̂, which several steps do not have."
        )
    if m == "global":
        raise ValueError(
            "Received `second_order=True` with `m='global'`; expected an `m` of one replica (`None` or an integer): "
            "no replica can differentiate through the gradients of the others."
        )
    return True


def check_k(k, name):
    if not _is_integer(k) or k < 1:
        raise ValueError(
            f"Received `k={k!r}` for `{name}`, which takes SAM's gradient every `k` steps; expected an integer ≥ 1, "
            "such as 5."
        )
    return int(k)


def check_not_negative(value, argument, meaning):
    if not _is_real(value) or not 0 <= value < math.inf:
        raise ValueError(f"`{argument}` is {meaning}. Received `{argument}={value!r}`; expected a finite number ≥ 0.")
    return float(value)


def check_positive(value, argument):
    if not _is_integer(value) or value < 1:
        raise ValueError(f"Received `{argument}={value!r}`; expected an integer of at least 1.")


def check_seed(seed):
    if not _is_integer(seed):
        raise ValueError(f"Received `seed={seed!r}`; expected an integer, or `None` for a random one.")
    return int(seed)


def check_decay(decay):
    if not _is_real(decay) or not 0 <= decay < 1:
        raise ValueError(
            f"`decay` is the share of the average of gradients that a step keeps. Received `decay={decay!r}`; expected "
            "a number in [0, 1), such as 0.9."
        )
    return float(decay)


def check_where(where):
    if where is None:
        return None
    try:
        re.compile(where)
    except (TypeError, re.error) as error:
        raise ValueError(
            f"`where` is a regular expression that is searched in `variable.path`. Received `where={where!r}` "
            f"({error}); expected a string such as '(gamma|beta)$', or `None` to perturb every weight."
        ) from error
    return where


def check_where_matches(where, variables, name):
    """Raise a `ValueError` if no variable's path matches: SAM would silently be plain training."""
    paths = [v.path for v in variables]
    if where is None or any(re.search(where, path) for path in paths):
        return
    words = sorted({word for path in paths for word in [path, *path.split("/")]})
    close = difflib.get_close_matches(where, words, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"The first path is {paths[0]!r}."
    raise ValueError(
        f"`where={where!r}` matches none of the {len(paths)} trainable variables of `{name}`, so nothing would be "
        f"perturbed. It is a regular expression searched in `variable.path`, e.g. {paths[-1]!r}. {hint}"
    )


def check_has_paths(variables, asked):
    """Raise a `ValueError` if a step does not say which weight is which."""
    if variables is None:
        raise ValueError(
            f"{asked} the paths of variables, and this step has none. Pass the list of `keras.Variable`, or of paths "
            "such as 'dense/bias' or torch's '0.bias', one a weight: `rule.step(iterations, variables)`."
        )


def check_one_a_weight(variables, weights):
    """Raise a `ValueError` if a step names other variables than the weights are the values of."""
    if variables is not None and len(variables) != len(weights):
        raise ValueError(
            f"Received a step with {len(variables)} variables for {len(weights)} weights; expected one a weight, such "
            "as `model.trainable_variables` in their order."
        )


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
