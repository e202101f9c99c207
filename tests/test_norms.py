import math

import numpy as np
import pytest
import reference
from keras import ops

from keras_sam.rules.norms import norm, orthogonal, steepest_ascent

pytestmark = pytest.mark.usefixtures("float64")
P = [1, 1.01, 1.5, 2, 4, 100, math.inf]


def gradient(scale=1.0):
    random = np.random.default_rng(0)
    return [scale * random.normal(size=shape) for shape in [(3, 2), (5,), ()]]


def tensors(arrays, dtype="float64"):
    return [ops.convert_to_tensor(a, dtype=dtype) for a in arrays]


@pytest.mark.parametrize("p", P)
def test_epsilon_is_equation_2(p):
    got = steepest_ascent(tensors(gradient()), 0.3, p)
    for g, expected in zip(got, reference.epsilon(gradient(), 0.3, p)):
        np.testing.assert_allclose(g, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("p", P)
def test_epsilon_solves_the_dual_norm_problem(p):
    """‖ε‖_p = ρ and ⟨g, ε⟩ = ρ ‖g‖_q, which no ε of that norm exceeds (Hölder)."""
    got = [np.asarray(e) for e in steepest_ascent(tensors(gradient()), 0.3, p)]
    q = {1: math.inf, math.inf: 1}.get(p) or p / (p - 1)
    np.testing.assert_allclose(reference.norm(got, p), 0.3, rtol=1e-9)
    product = sum((g * e).sum() for g, e in zip(gradient(), got))
    np.testing.assert_allclose(product, 0.3 * reference.norm(gradient(), q), rtol=1e-9)


@pytest.mark.parametrize("p", P)
def test_a_zero_gradient_gives_zero(p):
    for e in steepest_ascent(tensors([np.zeros((3, 2)), np.zeros(4)], "float32"), 0.3, p):
        np.testing.assert_array_equal(e, np.zeros(e.shape))


@pytest.mark.parametrize("p", [1.5, 2, 4])
def test_a_gradient_too_small_to_invert_chooses_no_direction(p):
    (e,) = steepest_ascent(tensors([np.array([1e-40, -3e-40])], "float32"), 0.3, p)
    np.testing.assert_array_equal(e, [0, 0])


def test_a_direction_too_short_to_invert_leaves_all_of_the_other():
    """⟨d, d⟩ is below the smallest normal float32."""
    (rest,) = orthogonal(tensors([np.array([1.0, 2.0])], "float32"), tensors([np.array([1e-20, 0.0])], "float32"))
    np.testing.assert_array_equal(rest, [1, 2])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("p", P)
def test_float32_neither_overflows_nor_underflows(p, sign):
    """Equation 2 does not depend on the gradient's length, whose powers would leave float32 here."""
    scale = 10.0 ** (sign * (15 if p == 2 else 30))
    got = steepest_ascent(tensors(gradient(scale), "float32"), 0.3, p)
    for g, expected in zip(got, reference.epsilon(gradient(), 0.3, p)):
        np.testing.assert_allclose(g, expected, rtol=2e-4, atol=1e-7)


def test_p_1_moves_the_first_of_equal_entries():
    got = steepest_ascent(tensors([np.array([0.0, -2.0]), np.array([2.0])]), 0.3, 1)
    np.testing.assert_array_equal(got[0], [0.0, -0.3])
    np.testing.assert_array_equal(got[1], [0.0])


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_norm(p):
    np.testing.assert_allclose(norm(tensors(gradient()), p), reference.norm(gradient(), p), rtol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_a_weight_without_entries_changes_nothing(p):
    with_nothing = tensors([*gradient(), np.zeros((3, 0))])
    np.testing.assert_allclose(norm(with_nothing, p), norm(tensors(gradient()), p), rtol=1e-14)
    *got, nothing = steepest_ascent(with_nothing, 0.3, p)
    for g, expected in zip(got, steepest_ascent(tensors(gradient()), 0.3, p), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-14)
    assert tuple(nothing.shape) == (3, 0)


def test_a_nan_gradient_is_not_taken_for_zero():
    assert np.isnan(steepest_ascent(tensors([np.array([np.nan, 1.0])]), 0.3)[0]).all()
