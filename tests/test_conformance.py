"""The table that every rule passes on every backend: one row a rule, one test a property.

`KERAS_BACKEND=jax pytest tests/test_conformance.py` and the like; `pytest` runs all backends, each in its own process.
"""

import functools
import math

import keras
import numpy as np
import pytest
import reference
from conftest import BACKEND
from keras import layers, ops
from nets import DECAY, data, tanh_net, weights_of
from oracle import to_numpy, values_of
from test_model import FLOAT64, MODES

import keras_sam
from keras_sam import backend
from keras_sam.rules.norms import norm

RHO = 0.1
SAM = keras_sam.SAM
# A new rule adds a row here, with its gradient on the quadratic below in `closed_form`.
RULES = {
    "SAM": SAM(RHO),
    "p=1": SAM(RHO, p=1),
    "p=1.5": SAM(RHO, p=1.5),
    "p=inf": SAM(RHO, p=math.inf),
    "m": SAM(RHO, m=3),
    "global": SAM(RHO, m="global"),
    "ascent_steps": SAM(RHO, ascent_steps=3),
    "ascent_steps, p=inf": SAM(RHO, ascent_steps=2, p=math.inf),
    "ascent_fraction": SAM(RHO, ascent_fraction=0.25),
    "m, ascent_fraction": SAM(RHO, m=3, ascent_fraction=0.5),
    "second_order": SAM(RHO, second_order=True),
    "second_order, p=1.5, m": SAM(RHO, p=1.5, second_order=True, m=3),
    "where": SAM(RHO, where="(gamma|beta)$"),
    "ASAM": keras_sam.ASAM(RHO, eta=0.25),
    "GSAM": keras_sam.GSAM(RHO, alpha=0.75),
    "FriendlySAM": keras_sam.FriendlySAM(RHO, sigma=0.75, decay=0.5),
    "LookSAM": keras_sam.LookSAM(RHO, k=3, alpha=0.5),
    "MSAM": keras_sam.MSAM(RHO),
    "random": keras_sam.RandomPerturbation(RHO, seed=1),
    "random, m": keras_sam.RandomPerturbation(RHO, seed=1, m=3),
}
EVERY_RULE = pytest.mark.parametrize("name", RULES)
# Those whose train steps differ, where a test has to compile some.
EVERY_STEP = pytest.mark.parametrize(
    "name",
    [
        "SAM",
        "m, ascent_fraction",
        "second_order",
        "FriendlySAM",
        "LookSAM",
        "MSAM",
        "random, m",
    ],
)

OWN_DIRECTION = (keras_sam.RandomPerturbation, keras_sam.FriendlySAM, keras_sam.MSAM)

# L(w) = ½ wᵀ H w over w = (kernel, gamma), so that every gradient and every Hessian is known without a network.
H = np.array(
    [
        [2.0, 0.5, 0.0, 0.3, -0.2],
        [0.5, 1.0, 0.4, 0.0, 0.1],
        [0.0, 0.4, 3.0, -0.6, 0.0],
        [0.3, 0.0, -0.6, 1.5, 0.7],
        [-0.2, 0.1, 0.0, 0.7, 0.8],
    ]
)
W = np.array([1.0, -1.0, 0.5, 0.25, -0.75])
# What a rule kept from the step before, or the optimizer's momentum.
KEPT = np.array([0.3, -0.2, 0.5, 0.1, -0.4])
CUT = 3


def quadratic(weights):
    # Not a matrix product, which Keras computes in float32 on JAX and torch.
    flat = ops.concatenate([ops.reshape(w, [-1]) for w in weights])
    return 0.5 * ops.sum(ops.convert_to_tensor(H, dtype=flat.dtype) * flat[:, None] * flat[None, :])


def variables():
    return [keras.Variable(w, name=name) for w, name in zip(np.split(W, [CUT]), ["kernel", "gamma"])]


def step_of(rule, kept=KEPT, iteration=0, dtype=None):
    kept = [ops.cast(k, dtype) if dtype else ops.convert_to_tensor(k) for k in np.split(kept, [CUT])]
    return rule.step(iteration, variables(), tuple(kept for _ in rule.slots), kept if rule.uses_momentum else None)


def applied(rule, weights=None, value_and_grad=None, kept=KEPT, iteration=0):
    weights = np.split(W, [CUT]) if weights is None else weights
    weights = [ops.convert_to_tensor(w) for w in weights]
    dtype = keras.backend.standardize_dtype(weights[0].dtype)
    value_and_grad = value_and_grad or backend.value_and_grad(quadratic)
    return rule.gradient(value_and_grad, weights, step_of(rule, kept, iteration, dtype))[0]


def closed_form(rule):
    """The gradient to apply on the quadratic, in NumPy."""
    w = np.split(W, [CUT])
    moved = [rule.where is None, True]

    def gradient_at(weights):
        return np.split(H @ np.concatenate(weights), [CUT])

    at = H.__matmul__
    if isinstance(rule, keras_sam.ASAM):
        return reference.asam(at, W, RHO, rule.eta, is_bias=False)
    if isinstance(rule, keras_sam.GSAM):
        return reference.gsam(at, W, RHO, rule.alpha)
    if isinstance(rule, keras_sam.FriendlySAM):
        return reference.friendly_sam(at, W, RHO, rule.sigma, rule.decay, KEPT)[0]
    if isinstance(rule, keras_sam.LookSAM):
        return reference.looksam(at, W, RHO, rule.alpha, True, KEPT)[0]
    if isinstance(rule, keras_sam.MSAM):
        return reference.msam(at, W, RHO, KEPT)
    if isinstance(rule, keras_sam.RandomPerturbation):
        tensors = [ops.convert_to_tensor(w_) for w_ in w]
        drawn = rule.ascend(tensors, tensors, rule.step(0, variables()))
        return H @ (W + np.concatenate([to_numpy(e) for e in drawn]))
    e = reference.ascent(gradient_at, w, RHO, rule.p, rule.ascent_steps, moved)
    gradient = H @ (W + np.concatenate(e))
    if rule.second_order:
        gradient = gradient + reference.second_order_term(H, H @ W, gradient, RHO, rule.p)
    return gradient


@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_closed_form_on_a_quadratic(name):
    rule = RULES[name]
    got = np.concatenate([to_numpy(g) for g in applied(rule)])
    # The Jacobian of the second-order term is a central difference.
    np.testing.assert_allclose(got, closed_form(rule), rtol=1e-8 if rule.second_order else 1e-12)


@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_epsilon_has_norm_rho_and_solves_the_dual_problem(name):
    """‖ε‖_p = ρ; after one step of ascent ⟨g, ε⟩ = ρ ‖g‖_q as well, which no ε of that norm exceeds.

    Rules with a direction of their own have the length alone; ASAM's is in units of the weights.
    """
    rule = RULES[name]
    weights, gradient = ([ops.convert_to_tensor(a) for a in np.split(v, [CUT])] for v in (W, H @ W))
    epsilon = rule.ascend(weights, gradient, step_of(rule))
    for _ in range(rule.ascent_steps - 1):
        epsilon = rule.ascend(weights, gradient, step_of(rule), epsilon)
    present = [(e, g) for e, g in zip(epsilon, gradient) if e is not None]
    if isinstance(rule, keras_sam.ASAM):
        scaled = np.concatenate([to_numpy(e) for e, _ in present]) / (np.abs(W) + rule.eta)
        np.testing.assert_allclose(np.linalg.norm(scaled), RHO, rtol=1e-12)
        return
    np.testing.assert_allclose(to_numpy(norm([e for e, _ in present], rule.p)), RHO, rtol=1e-12)
    if isinstance(rule, OWN_DIRECTION):
        return
    q = {1: math.inf, math.inf: 1}.get(rule.p) or rule.p / (rule.p - 1)
    slope = sum(float(ops.sum(e * g)) for e, g in present)
    np.testing.assert_allclose(slope, RHO * float(norm([g for _, g in present], q)), rtol=1e-12)


@EVERY_RULE
def test_a_zero_gradient_moves_nothing(name):
    rule = RULES[name]
    gradient = applied(rule, [np.zeros(CUT, "float32"), np.zeros(5 - CUT, "float32")], kept=np.zeros(5))
    if isinstance(rule, keras_sam.RandomPerturbation):
        assert all(np.isfinite(to_numpy(g)).all() for g in gradient)
        return
    for g in gradient:
        np.testing.assert_array_equal(to_numpy(g), np.zeros_like(to_numpy(g)))


@EVERY_RULE
def test_a_missing_gradient_stays_missing_and_its_weight_stays_put(name):
    rule, seen = RULES[name], []

    def value_and_grad(weights):
        value, (gradient,) = backend.value_and_grad(lambda w: ops.sum(w[0] ** 2))(weights[1:])
        seen.append([to_numpy(ops.stop_gradient(w)) for w in weights] if len(seen) < 2 else None)
        return value, [None, gradient]

    # An optimizer has no momentum where there was never a gradient.
    kept = np.array([0.0, 0.0, 0.0, 1.0, -1.0])
    got = applied(rule, [np.ones(3, "float32"), np.ones(2, "float32")], value_and_grad, kept)
    assert got[0] is None
    assert np.isfinite(to_numpy(got[1])).all()
    perturbed = seen[1 if rule.has_clean_pass else 0]
    np.testing.assert_array_equal(perturbed[0], np.ones(3))
    # The other one takes all of ρ, in ASAM's norm of (w + η)⁻¹ ε where that is the rule's.
    scale = 1.25 if isinstance(rule, keras_sam.ASAM) else 1.0
    np.testing.assert_allclose(np.linalg.norm(perturbed[1] - 1, rule.p), RHO * scale, rtol=1e-5)


@EVERY_RULE
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_dtypes_of_the_weights_are_kept(name, dtype):
    rule, seen = RULES[name], []

    def value_and_grad(weights):
        seen.extend(keras.backend.standardize_dtype(w.dtype) for w in weights)
        return backend.value_and_grad(quadratic)(weights)

    weights = [ops.cast(w, dtype) for w in np.split(W.astype("float32"), [CUT])]
    gradient, state = rule.gradient(value_and_grad, weights, step_of(rule, dtype=dtype))
    gradient = [*gradient, *keras.tree.flatten(state)]
    assert {*seen, *(keras.backend.standardize_dtype(g.dtype) for g in gradient)} == {dtype}


@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_weights_of_two_dtypes_have_one_norm(name):
    rule = RULES[name]
    weights = [ops.cast(w, dtype) for w, dtype in zip(np.split(W, [CUT]), ("float32", "float64"))]
    gradient = applied(rule, weights)
    assert [keras.backend.standardize_dtype(g.dtype) for g in gradient] == ["float32", "float64"]
    if not isinstance(rule, keras_sam.RandomPerturbation):  # whose numbers in float64 are others
        np.testing.assert_allclose(np.concatenate([to_numpy(g) for g in gradient]), closed_form(rule), rtol=1e-6)


def small_net(cls=keras_sam.SAMModel, inputs=None, x=None):
    """BatchNormalization, whose gamma and beta `where` finds; no Dropout, of which Keras does not save the seeds."""
    inputs = keras.Input((3,)) if inputs is None else inputs
    x = layers.Dense(6, "tanh", kernel_regularizer="l2")(inputs if x is None else x)
    return cls(inputs, layers.Dense(2)(layers.BatchNormalization()(x)))


def compiled(rule, build=small_net, cls=keras_sam.SAMModel, **options):
    keras.utils.set_random_seed(1)
    model = build(cls)
    options = options if cls is keras.Model else {"sam": rule, **options}
    optimizer, metric = keras.optimizers.SGD(0.125, momentum=0.75), keras.metrics.MeanAbsoluteError()
    model.compile(optimizer, "mse", metrics=[metric], **options)
    # A step that creates variables is traced twice.
    optimizer.build(model.trainable_variables)
    return model


def table(rows=24):
    return [a.astype("float32") for a in data(rows)]


FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def validated(model):
    """The history of two epochs, and the variables after them."""
    x, y = table()
    history = model.fit(x, y, epochs=2, validation_data=(x, y), **FIT).history
    return history, values_of(model.variables)


@functools.cache
def plain_keras():
    return validated(compiled(None, cls=keras.Model))


@EVERY_STEP
def test_a_constant_rho_of_0_is_keras_to_the_bit(name):
    config = {**RULES[name].get_config(), "rho": 0.0}
    history, variables = validated(compiled(type(RULES[name]).from_config(config)))
    expected_history, expected = plain_keras()
    assert history == expected_history
    for got, want in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(got, want)


@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_training_equals_numpy(name):
    """Weights after three steps, and the logs of the first; a smaller batch at the end where it is cut most."""
    rule = RULES[name]
    if type(rule) is not SAM or rule.second_order or rule.where:
        pytest.skip("test_family.py's, or needs a Hessian or BatchNormalization, which the net of reference.py has not")
    x, y = data(22 if rule.m == 3 and rule.ascent_fraction < 1 else 24)
    model = tanh_net()
    optimizer = keras.optimizers.SGD(0.125, momentum=0.75)
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype="float64"), sam=rule)
    optimizer.build(model.trainable_variables)
    m = rule.m if isinstance(rule.m, int) else None
    options = {"p": rule.p, "ascent_steps": rule.ascent_steps, "ascent_fraction": rule.ascent_fraction, "decay": DECAY}
    batches = [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]
    expected = reference.train(weights_of(model), batches, 0.125, RHO, momentum=0.75, m=m, **options)
    loss, sharpness, _ = reference.micro_batch_gradient(weights_of(model), *batches[0], RHO, m, **options)
    for i, batch in enumerate(batches):
        logs = model.train_on_batch(*batch, return_dict=True)
        if i == 0:
            np.testing.assert_allclose([logs["loss"], logs["sharpness"]], [loss, sharpness], rtol=1e-5)
    for got, want in zip(weights_of(model), expected):
        np.testing.assert_allclose(got, want, **FLOAT64)


def saved_after_two_epochs(model, path):
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: model.save(path) if epoch == 1 else None)


@EVERY_STEP
def test_save_load_and_resume_equals_training_at_a_stretch(name, tmp_path):
    x, y = table()
    straight = compiled(RULES[name])
    straight.fit(x, y, epochs=4, callbacks=[saved_after_two_epochs(straight, tmp_path / "model.keras")], **FIT)
    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert resumed.sam.get_config() == RULES[name].get_config()
    resumed.fit(x, y, epochs=4, initial_epoch=2, **FIT)
    expected = straight.variables + straight.optimizer.variables
    for got, want in zip(resumed.variables + resumed.optimizer.variables, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(got), to_numpy(want), err_msg=want.path)


@EVERY_STEP
def test_every_way_to_compile_gives_the_same_numbers_and_no_step_is_traced_again(name):
    """Graph, eager and XLA on TensorFlow, jitted and eager on JAX; a last batch of another size in each epoch.

    XLA compiles each size by itself, and the other size with one rule alone.
    """
    calls, results = [], {8: [], 22: []}

    class Counting(layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x

    def build(cls):
        inputs = keras.Input((3,))
        return small_net(cls, inputs, Counting()(inputs))

    modes = MODES
    if BACKEND == "tensorflow" and name.startswith("random"):
        modes = MODES[:2]  # XLA draws other random numbers than the other kernels
    elif BACKEND == "jax" and name == "SAM":
        modes = [{}, {"run_eagerly": True}]  # of one rule: eager loops compile in each step
    for options in modes:
        model = compiled(RULES[name], build, **options)
        for rows in [8] if "jit_compile" in options and name != "SAM" else [8, 22]:
            x, y = table(rows)
            model.fit(x, y, **FIT)
            calls.clear()
            history = model.fit(x, y, **FIT).history
            if BACKEND != "torch" and not options.get("run_eagerly"):
                assert calls == []
            assert ("sharpness" in history) == RULES[name].has_clean_pass
            results[rows].append([*history["loss"], *history.get("sharpness", []), *values_of(model.variables)])
    for first, *others in results.values():
        for other in others:
            for got, want in zip(other, first, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@EVERY_RULE
def test_config_and_repr_round_trip(name):
    rule = RULES[name]
    config = keras.saving.serialize_keras_object(rule)
    again = keras_sam.rules.get(config)
    assert type(again) is type(rule)
    assert again.get_config() == rule.get_config()
    assert eval(repr(rule), vars(keras_sam)).get_config() == config["config"]


def test_the_table_has_every_rule():
    assert {type(rule) for rule in RULES.values()} == set(keras_sam.rules._BY_NAME.values())
