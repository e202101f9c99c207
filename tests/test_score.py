"""The bound of theorem 2 and the score of the generalization gap, by hand and against slow twins."""

import itertools
import math

import numpy as np
import pytest

from keras_sam.sharpness import generalization_score, pac_bayes_bound


def test_the_bound_by_hand():
    """n = 60,000, k = 10, ‖w‖ = 1, ρ = 0.5, δ = 0.05.

    10 log(1 + 4 (1 + √(11.0021 / 10))²) = 28.7875, 4 log(1,200,000) = 55.9913, 8 log(360,030) = 102.3515, and
    √(187.1303 / 59,999) = 0.055847.
    """
    assert pac_bayes_bound(0.1, 1.0, 10, 60_000, 0.5) == pytest.approx(0.155847, abs=1e-6)


def test_the_bound_is_the_formula():
    n, k, w, rho, delta = 500, 2000, 13.0, 0.05, 0.01
    inside = k * np.log(1 + w**2 / rho**2 * (1 + np.sqrt(np.log(n) / k)) ** 2)
    inside += 4 * np.log(n / delta) + 8 * np.log(6 * n + 3 * k)
    # Vacuous: more weights than examples.
    assert pac_bayes_bound(0.3, w, k, n, rho, delta) == pytest.approx(0.3 + np.sqrt(inside / (n - 1)), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"worst_loss": 1.1},
        {"worst_loss": math.nan},
        {"weights_norm": math.inf},
        {"num_parameters": 0},
        {"num_examples": 1},
        {"rho": 0.0},
        {"delta": 1.0},
    ],
)
def test_the_bound_of_bad_input(wrong):
    arguments = {"worst_loss": 0.1, "weights_norm": 1.0, "num_parameters": 10, "num_examples": 100, "rho": 0.1}
    with pytest.raises(ValueError, match=f"Received `{next(iter(wrong))}="):
        pac_bayes_bound(**{**arguments, **wrong})


def twin(measure, gap, hyperparameters):
    """As in the definition: probabilities counted pair by pair, conditional on what the two models have."""

    def log2(p):
        return math.log2(p) if p else 0.0

    scores = []
    for a, b in itertools.combinations(hyperparameters, 2):
        cells = {}
        for i, j in itertools.permutations(range(len(gap)), 2):
            key = tuple(hyperparameters[name][k] for name in (a, b) for k in (i, j))
            cells.setdefault(key, []).append((measure[i] > measure[j], gap[i] > gap[j]))
        total = sum(map(len, cells.values()))
        information = entropy = 0.0
        for pairs in cells.values():
            share = len(pairs) / total
            for v in (False, True):
                p_gap = sum(g == v for _, g in pairs) / len(pairs)
                entropy -= share * p_gap * log2(p_gap)
                for u in (False, True):
                    p_measure = sum(m == u for m, _ in pairs) / len(pairs)
                    p = pairs.count((u, v)) / len(pairs)
                    if p:
                        information += share * p * log2(p / (p_gap * p_measure))
        scores.append(information / entropy)
    return min(scores)


GRID = np.array(list(itertools.product([10, 16], [1, 4], [32, 64, 128], [0, 1]))).T
HYPERPARAMETERS = dict(zip(("depth", "width", "batch", "seed"), GRID.tolist()))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_score_is_its_definition(seed):
    random = np.random.default_rng(seed)
    gap = random.normal(size=24).round(1)
    measure = gap + 0.5 * random.normal(size=24)
    expected = twin(measure, gap, HYPERPARAMETERS)
    assert 0 < expected < 1
    assert generalization_score(measure, gap, HYPERPARAMETERS) == pytest.approx(expected, rel=1e-9)


def test_the_ends_of_the_score():
    gap = np.random.default_rng(0).permutation(24)
    assert generalization_score(gap, gap, HYPERPARAMETERS) == pytest.approx(1)
    assert generalization_score(-gap, gap, HYPERPARAMETERS) == pytest.approx(1)
    assert generalization_score(np.ones(24), gap, HYPERPARAMETERS) == 0
    # A measure that knows the depth and no more: with it fixed there is nothing left.
    assert generalization_score(HYPERPARAMETERS["depth"], gap, HYPERPARAMETERS) == 0


def test_equal_hyperparameters_are_one_value():
    """Whatever their types; lists, arrays and NaN are values like others."""
    gap = np.random.default_rng(0).normal(size=24).round(1)
    measure = gap + np.random.default_rng(1).normal(size=24)
    expected = generalization_score(measure, gap, HYPERPARAMETERS)
    for one, four in [(1, 4), (True, 4), (np.float32(1), "4"), ([1], [4.0]), (np.ones(2), np.zeros(2))]:
        ones, fours = itertools.cycle([one, _float(one)]), itertools.cycle([four, _float(four)])
        width = [next(ones if w == 1 else fours) for w in HYPERPARAMETERS["width"]]
        assert generalization_score(measure, gap, {**HYPERPARAMETERS, "width": width}) == expected
    width = np.where(np.array(HYPERPARAMETERS["width"]) == 1, np.nan, 4)
    assert generalization_score(measure, gap, {**HYPERPARAMETERS, "width": width}) == expected


def _float(value):
    if isinstance(value, list):
        return [float(v) for v in value]
    return float(value) if isinstance(value, int | np.float32) else value


def test_the_score_of_bad_input():
    gap = np.arange(24.0)
    for measure, gaps, hyperparameters, message in [
        (gap[1:], gap, HYPERPARAMETERS, "one a model"),
        (gap[:, None], gap, HYPERPARAMETERS, r"`measure` of shape \(24, 1\)"),
        (gap, np.stack([gap, gap]), HYPERPARAMETERS, r"`gap` of shape \(2, 24\)"),
        (1.0, gap, HYPERPARAMETERS, r"`measure` of shape \(\)"),
        (gap, gap, {"depth": HYPERPARAMETERS["depth"]}, "two at least"),
        (np.where(gap == 3, np.nan, gap), gap, HYPERPARAMETERS, "not finite"),
        (gap, np.zeros(24), HYPERPARAMETERS, "no order of gaps"),
        (gap[:4], gap[:4], {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]}, "a third hyperparameter|hyperparameter or"),
    ]:
        with pytest.raises(ValueError, match=message):
            generalization_score(measure, gaps, hyperparameters)
