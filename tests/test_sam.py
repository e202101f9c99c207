import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_sam
from keras_sam import backend, rules

pytestmark = pytest.mark.usefixtures("float64")
SCHEDULES = keras.optimizers.schedules
CURVATURE = np.array([1.0, 2.0, 3.0])
W = np.array([1.0, -1.0, 0.5])


def quadratic(weights):
    """½ wᵀ diag(1, 2, 3) w: every gradient is known without a network."""
    return ops.sum(ops.convert_to_tensor(CURVATURE / 2) * weights[0] ** 2)


def applied(rule, value_and_grad=None, weights=(W,), step=None):
    weights = [ops.convert_to_tensor(w) for w in weights]
    gradient, state = rule.gradient(value_and_grad or backend.value_and_grad(quadratic), weights, step or rule.step(0))
    assert state == ()
    return gradient


def test_the_gradient_is_taken_at_w_plus_epsilon():
    g = CURVATURE * W
    expected = CURVATURE * (W + 0.1 * g / np.sqrt((g**2).sum()))
    np.testing.assert_allclose(applied(keras_sam.SAM(rho=0.1))[0], expected, rtol=1e-12)


def test_p_infinity_steps_by_the_sign():
    expected = CURVATURE * (W + 0.1 * np.sign(W))
    np.testing.assert_allclose(applied(keras_sam.SAM(rho=0.1, p=math.inf))[0], expected, rtol=1e-12)


def test_a_missing_gradient_stays_missing_and_its_weight_stays_put():
    seen = []

    def value_and_grad(weights):
        seen.append([np.asarray(w) for w in weights])
        return ops.zeros(()), [None, ops.convert_to_tensor(np.array([3.0, 4.0]))]

    got = applied(keras_sam.SAM(rho=0.5), value_and_grad, [np.ones(2), np.ones(2)])
    assert got[0] is None
    np.testing.assert_array_equal(seen[1][0], np.ones(2))
    np.testing.assert_allclose(seen[1][1], [1.3, 1.4], rtol=1e-12)


@pytest.mark.parametrize(
    ("second", "epsilon"),
    [
        # (0.3, 0.4) + (0, 0.5) is 0.9487 long, and is scaled back to 0.5.
        ([None, 2.0], [0.3 * 0.5 / math.sqrt(0.9), 0.9 * 0.5 / math.sqrt(0.9)]),
        ([None, None], [0.3, 0.4]),
    ],
)
def test_a_weight_without_a_gradient_in_a_later_ascent_step_stays_where_the_one_before_put_it(second, epsilon):
    seen, gradients = [], [[3.0, 4.0], second, [1.0, 1.0]]

    def value_and_grad(weights):
        seen.append([float(w[0]) for w in weights])
        gradient = gradients[len(seen) - 1]
        return ops.zeros(()), [None if g is None else ops.convert_to_tensor(np.array([g])) for g in gradient]

    applied(keras_sam.SAM(rho=0.5, ascent_steps=2), value_and_grad, [np.zeros(1), np.zeros(1)])
    np.testing.assert_allclose(seen, [[0, 0], [0.3, 0.4], epsilon], rtol=1e-12)


def test_float16_weights_are_perturbed_by_a_float32_norm():
    """The squares of these gradients overflow float16, and their norm with it."""
    w = ops.ones(3, dtype="float16")
    g = ops.convert_to_tensor(np.full(3, 6e4, "float16"))
    seen = []

    def value_and_grad(weights):
        seen.append(weights[0])
        return ops.zeros(()), [g]

    applied(keras_sam.SAM(rho=0.75), value_and_grad, [w])
    assert keras.backend.standardize_dtype(seen[1].dtype) == "float16"
    np.testing.assert_allclose(ops.convert_to_numpy(seen[1]), np.full(3, 1 + 0.75 / math.sqrt(3)), rtol=1e-3)


def test_in_ascent_is_true_in_the_pass_that_chooses_epsilon_alone():
    seen = []

    def value_and_grad(weights):
        seen.append(keras_sam.in_ascent())
        return ops.zeros(()), [ops.ones(3)]

    applied(keras_sam.SAM(), value_and_grad)
    assert seen == [True, False]
    assert keras_sam.in_ascent() is False


def test_in_ascent_is_reset_by_an_error():
    def fails(weights):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        applied(keras_sam.SAM(), fails)
    assert keras_sam.in_ascent() is False


def test_rho_follows_its_schedule():
    rule = keras_sam.SAM(rho=SCHEDULES.PiecewiseConstantDecay([2], [0.0, 0.3]))
    assert [float(rule.step(i).rho) for i in (0, 2, 3)] == [0.0, 0.0, pytest.approx(0.3)]
    assert [bool(rule.needs_second_pass(rule.step(i))) for i in (0, 2, 3)] == [False, False, True]
    assert keras_sam.SAM(rho=0.1).needs_second_pass(rule.step(0)) is True


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf, "0.1", None, True, [0.1], 1j])
def test_a_bad_rho_is_refused(rho):
    with pytest.raises(ValueError, match=r"Received `rho=.*expected a finite float ≥ 0"):
        keras_sam.SAM(rho=rho)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan, "two", None, True])
def test_a_bad_p_is_refused(p):
    with pytest.raises(ValueError, match=r"Received `p=.*expected a number in \[1, ∞\]"):
        keras_sam.SAM(p=p)


@pytest.mark.parametrize("p", [1, 1.5, math.inf, "inf", np.float32(2)])
def test_config_round_trip(p):
    rule = keras_sam.SAM(rho=SCHEDULES.ExponentialDecay(0.1, 10, 0.5), p=p)
    config = keras.saving.serialize_keras_object(rule)
    again = rules.get(config)
    assert again.get_config() == rule.get_config()
    assert again.p == float(p)
    assert float(again.step(10).rho) == pytest.approx(0.05)


def test_get_takes_a_rule_a_name_a_config_or_none():
    rule = keras_sam.SAM(rho=0.2)
    assert rules.get(rule) is rule
    assert rules.get(None) is None
    assert rules.get("SAM").get_config() == keras_sam.SAM().get_config()
    assert rules.get({"class_name": "sam", "config": {"rho": 0.3}}).get_config() == keras_sam.SAM(0.3).get_config()
    assert repr(rules.get("randomperturbation")).startswith("RandomPerturbation(rho=0.05, seed=")


@keras.saving.register_keras_serializable("tests")
class HalfSAM(keras_sam.SAM):
    def perturbation(self, weights, gradient, step):
        return [0.5 * e for e in super().perturbation(weights, gradient, step)]


def test_a_rule_of_the_users_own_round_trips():
    assert type(rules.get(keras.saving.serialize_keras_object(HalfSAM(rho=0.2)))) is HalfSAM


@pytest.mark.parametrize(
    ("sam", "message"),
    [
        ("sma", "Did you mean 'sam'"),
        (keras_sam.SAM, r"Did you mean `sam=SAM\(\)`"),
        (0.05, "expected a rule such as"),
        (True, "expected a rule such as"),
        ({"rho": 0.1}, "expected a config of the form"),
        ({"class_name": "SAM", "config": {"radius": 0.1}}, "radius"),
        ({"class_name": "SAM", "conf": {}}, "expected a config of the form"),
        ({"class_name": "Adam", "config": {"learning_rate": 0.1}, "module": "keras.optimizers"}, "which is a Adam"),
    ],
)
def test_what_is_no_rule_is_refused(sam, message):
    with pytest.raises(ValueError, match=message):
        rules.get(sam)


def test_repr_names_the_arguments():
    assert repr(keras_sam.SAM(rho=0.1)) == "SAM(rho=0.1)"
    assert repr(keras_sam.SAM(rho=0.1, p="inf", m=8, where="gamma")) == "SAM(rho=0.1, p='inf', m=8, where='gamma')"
    assert repr(keras_sam.SAM(rho=SCHEDULES.ExponentialDecay(0.1, 10, 0.5))) == "SAM(rho=ExponentialDecay)"


BAD = {
    "m": [0, -1, 2.5, "all", True, [8]],
    "ascent_steps": [0, -1, 1.5, "2", None, True],
    "ascent_fraction": [0, 0.0, -0.5, 1.5, math.nan, "0.5", None, True],
    "second_order": [1, "yes", None],
    "where": ["(", 3, ["gamma"]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_argument_is_refused_with_what_was_expected(name, value):
    with pytest.raises(ValueError, match=rf"(?s)Received `{name}=.*expected"):
        keras_sam.SAM(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1}, "piecewise constant"),
        ({"p": "inf"}, "piecewise constant"),
        ({"p": 3}, r"expected a `p` in \(1, 2\]"),
        ({"ascent_steps": 2}, "expected `ascent_steps=1`"),
        ({"m": "global"}, "no replica can differentiate through the gradients of the others"),
    ],
)
def test_second_order_is_refused_where_it_cannot_be_had(options, message):
    with pytest.raises(ValueError, match=message):
        keras_sam.SAM(second_order=True, **options)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="where a missing gradient is zero")
def test_second_order_where_other_weights_are_used_at_the_perturbed_ones():
    """The loss is s a at w and s b at w + ε̂, so that H swaps s and a, and a gets the second term alone."""
    s, a, b, rho = 0.5, 2.0, 3.0, 0.25
    at_w, perturbed = (backend.value_and_grad(lambda w, i=i: w[0] * w[i]) for i in (1, 2))
    calls = iter([at_w, perturbed, at_w])
    weights = [ops.convert_to_tensor(value) for value in (s, a, b)]
    gradient = applied(keras_sam.SAM(rho, second_order=True), lambda w: next(calls)(w), weights)
    g, d = np.array([a, s]), np.array([b, 0.0])
    length = np.hypot(a, s)
    v = rho / length * (d - g * (g @ d) / length**2)
    np.testing.assert_allclose(gradient, [b + v[1], v[0], s + rho * a / length], rtol=1e-5)


def test_second_order_is_refused_where_the_loss_has_no_second_derivative():
    def linear(weights):
        return ops.sum(weights[0]) * 1.0

    if keras.backend.backend() == "jax":  # where a missing gradient is zero, and so is the term
        np.testing.assert_array_equal(applied(keras_sam.SAM(second_order=True), backend.value_and_grad(linear))[0], 1)
        return
    for value_and_grad in (backend.value_and_grad(linear), lambda weights: (ops.zeros(()), [None])):
        calls = iter([backend.value_and_grad(linear), backend.value_and_grad(linear), value_and_grad])
        with pytest.raises(ValueError, match="needs second derivatives"):
            applied(keras_sam.SAM(second_order=True), lambda weights, calls=calls: next(calls)(weights))


def test_where_needs_the_variables():
    rule = keras_sam.SAM(where="gamma")
    with pytest.raises(ValueError, match=r"rule.step\(iterations, variables\)"):
        applied(rule)
    weights = [ops.ones(1), ops.ones(2)]
    still, moved = rule.ascend(weights, weights, rule.step(0, ["norm/beta", "norm/gamma"]))
    assert still is None
    np.testing.assert_allclose(ops.convert_to_numpy(moved), np.full(2, 0.05 / 2**0.5), rtol=1e-6)
    with pytest.raises(ValueError, match="3 variables for 2 weights; expected one a weight"):
        rule.ascend(weights, weights, rule.step(0, ["norm/beta", "norm/gamma", "norm/moving_mean"]))


def test_where_that_matches_nothing_is_refused_at_compile_with_what_was_meant():
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, keras.layers.BatchNormalization(name="bn")(inputs), name="net")
    message = r"(?s)`where='gama'` matches none of the 2 trainable variables of `net`.*Did you mean 'gamma'\?"
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", "mse", sam=keras_sam.SAM(where="gama"))
    model.compile("sgd", "mse", sam=keras_sam.SAM(where="gam+a"))


def test_where_that_matches_nothing_is_refused_in_the_first_step_of_a_model_that_was_not_built():
    class Net(keras_sam.SAMModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Net()
    model.compile("sgd", "mse", sam=keras_sam.SAM(where="gamma"))
    with pytest.raises(ValueError, match="matches none of the 2 trainable variables"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)


def test_a_random_perturbation_without_a_seed_draws_and_keeps_one():
    keras.utils.set_random_seed(5)
    first = keras_sam.RandomPerturbation()
    keras.utils.set_random_seed(5)
    assert keras_sam.RandomPerturbation().get_config() == first.get_config()
    assert keras_sam.RandomPerturbation().seed != first.seed


@pytest.mark.parametrize("seed", [np.int64(3), 2**40 + 3, -1])
def test_a_random_perturbation_takes_any_integer_for_its_seed(seed):
    rule = keras_sam.RandomPerturbation(seed=seed)
    assert rule.get_config()["seed"] == seed
    assert type(rule.seed) is int
    same = keras_sam.RandomPerturbation(seed=int(seed) % 2**31)
    found = [r.ascend([ops.zeros(3)], [ops.ones(3)], r.step(0))[0] for r in (rule, same)]
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, found))


@pytest.mark.parametrize("seed", ["1", True, 1.0])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ValueError, match=f"(?s)Received `seed={seed!r}`; expected an integer"):
        keras_sam.RandomPerturbation(seed=seed)


def test_random_directions_are_isotropic_and_new_each_step_and_share():
    rule = keras_sam.RandomPerturbation(rho=1.0, seed=3)
    weights = [ops.zeros((2, 1000)), ops.zeros(500)]
    steps = [rule.step(i)._replace(share=share) for i in range(8) for share in (0, 1, 2**20)]
    draws = np.stack([np.concatenate([np.ravel(e) for e in rule.ascend(weights, weights, step)]) for step in steps])
    np.testing.assert_allclose(np.linalg.norm(draws, axis=1), 1, rtol=1e-6)
    correlation = draws @ draws.T - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / math.sqrt(2500)
    scaled = draws * math.sqrt(2500)  # standard normal numbers
    assert abs(scaled.mean()) < 5 / math.sqrt(scaled.size)
    assert abs((scaled**4).mean() - 3) < 0.2
    # No weight gets, in a later step, the numbers of its neighbour.
    assert np.abs([np.corrcoef(a[:500], b[2000:])[0, 1] for a in draws for b in draws]).max() < 5 / math.sqrt(500)
