"""ASAM, GSAM, FriendlySAM, LookSAM and MSAM: training against NumPy, what each reduces to, and the state they keep."""

import functools

import keras
import numpy as np
import pytest
import reference
from conftest import BACKEND
from keras import layers, ops
from nets import DECAY, EAGERLY, data, tanh_net, weights_of
from oracle import to_numpy, values_of
from test_conformance import FIT, compiled, small_net, table
from test_traps import ROWS, TARGETS, Overflow, model_of

import keras_sam
from keras_sam import SAM, FriendlySAM, LookSAM, SAMModel, backend
from keras_sam.backend import rule_state
from keras_sam.backend.step import step_of

RHO, RATE, MU = 0.125, 0.125, 0.75
# Keras multiplies float64 matrices in float32 on JAX and torch.
FLOAT64 = {"rtol": 1e-9, "atol": 1e-12} if BACKEND == "tensorflow" else {"rtol": 1e-5, "atol": 1e-6}
SHAPES = [(3, 4), (4,), (4, 2), (2,)]
IS_BIAS = np.concatenate([np.full(np.prod(s), len(s) == 1) for s in SHAPES])


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def unflat(vector):
    cuts = np.cumsum([np.prod(s) for s in SHAPES])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(vector, cuts), SHAPES)]


def gradient_on(x, y, decay):
    return lambda w: flat(reference.loss_and_gradient(unflat(w), x, y, decay)[1])


# Each a rule and what reference.py says of it: from a gradient, w, the step, what was kept and the momentum to what is
# applied and what is kept.
RULES = {
    "ASAM": (
        keras_sam.ASAM(RHO, eta=0.25),
        lambda g, w, t, kept, v: (reference.asam(g, w, RHO, 0.25, IS_BIAS), None),
    ),
    "GSAM": (
        keras_sam.GSAM(RHO, alpha=0.5),
        lambda g, w, t, kept, v: (reference.gsam(g, w, RHO, 0.5), None),
    ),
    "FriendlySAM": (
        keras_sam.FriendlySAM(RHO, sigma=0.75, decay=0.625),
        lambda g, w, t, kept, v: reference.friendly_sam(g, w, RHO, 0.75, 0.625, kept),
    ),
    "LookSAM": (
        keras_sam.LookSAM(RHO, k=3, alpha=0.5),
        lambda g, w, t, kept, v: reference.looksam(g, w, RHO, 0.5, t % 3 == 0, kept),
    ),
    "MSAM": (
        keras_sam.MSAM(RHO),
        lambda g, w, t, kept, v: (reference.msam(g, w, RHO, v), None),
    ),
}
EVERY_RULE = pytest.mark.parametrize("name", RULES)


def expected(name, weights, batches, num_parts=1, decay=DECAY):
    """SGD with momentum. The parts of a batch, replicas or micro-batches, start from one state and are averaged."""
    w, v, kept = flat(weights), np.zeros(IS_BIAS.size), None
    for t, (x, y) in enumerate(batches):
        parts = zip(np.split(x, num_parts), np.split(y, num_parts))
        results = [RULES[name][1](gradient_on(*part, decay), w, t, kept, v) for part in parts]
        applied, kept = (None if r[0] is None else np.mean(r, axis=0) for r in zip(*results))
        v = MU * v + applied
        w = w - RATE * v
    return unflat(w)


def batches(x, y, size=8):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def trained(rule, x, y, scope=None):
    model = tanh_net()
    start = weights_of(model)
    optimizer = keras.optimizers.SGD(RATE, momentum=MU)
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype="float64"), sam=rule)
    optimizer.build(model.trainable_variables)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return start, model


@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_training_equals_the_paper_in_numpy(name):
    x, y = data(40)
    start, model = trained(RULES[name][0], x, y)
    for got, want in zip(weights_of(model), expected(name, start, batches(x, y)), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT64)


@pytest.mark.parametrize("name", ["ASAM", "GSAM", "FriendlySAM", "LookSAM"])
@pytest.mark.usefixtures("float64")
def test_micro_batches_start_from_one_state_and_average_theirs(name):
    x, y = data(40)
    rule = RULES[name][0]
    start, model = trained(type(rule)(**{**rule.get_config(), "m": 4}), x, y)
    for got, want in zip(weights_of(model), expected(name, start, batches(x, y), 2), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT64)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="several replicas in one process")
@pytest.mark.parametrize("num_replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
@EVERY_RULE
@pytest.mark.usefixtures("float64")
def test_replicas_keep_the_mean_of_their_states(name, num_replicas, request):
    x, y = data(40)
    strategy = request.getfixturevalue("mirrored")(num_replicas)
    with strategy.scope():
        start, model = trained(RULES[name][0], x, y)
    for got, want in zip(weights_of(model), expected(name, start, batches(x, y), num_replicas), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT64)
    for variable in model.optimizer.variables:
        copies = [to_numpy(copy) for copy in strategy.experimental_local_results(variable.value)]
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="several replicas in one process")
@pytest.mark.parametrize("cls", [keras_sam.GSAM, LookSAM])
def test_gradients_of_different_examples_are_not_compared(cls, request):
    with request.getfixturevalue("mirrored")(2).scope():
        with pytest.raises(ValueError, match=r"MirroredStrategy with 2 replicas.*Expected an integer, or `None`"):
            compiled(cls(m="global"))
        compiled(cls(m=4))
    compiled(cls(m="global"))


@functools.cache
def trained_eagerly(rule):
    """Losses and variables after two looks of a rule that looks at every third step."""
    model = compiled(rule, run_eagerly=True)
    history = model.fit(*table(), epochs=2, **FIT).history
    return [*history["loss"], *values_of(model.variables)]


PLAIN_SAM = SAM(RHO)


@pytest.mark.parametrize(
    ("rule", "same"),
    [
        (keras_sam.GSAM(RHO, alpha=0), PLAIN_SAM),
        (keras_sam.FriendlySAM(RHO, sigma=0), PLAIN_SAM),
        (keras_sam.LookSAM(RHO, k=1), PLAIN_SAM),
        (keras_sam.LookSAM(RHO, k=3, alpha=0), SAM(keras_sam.schedules.EveryK(RHO, 3))),
    ],
    ids=repr,
)
def test_reduces_to_sam_to_the_bit(rule, same):
    for got, want in zip(trained_eagerly(rule), trained_eagerly(same), strict=True):
        np.testing.assert_array_equal(got, want)


def test_looksam_between_looks_evaluates_one_gradient():
    """A custom loop counts in Python, so that the second evaluation is not even traced."""
    rule, calls = LookSAM(0.5, k=2, alpha=0.5), []

    def value_and_grad(weights):
        calls.append(weights)
        return backend.value_and_grad(lambda w: ops.sum(ops.convert_to_tensor([1.0, 3.0]) * w[0] ** 2) / 2)(weights)

    w = [ops.convert_to_tensor([3.0, 4.0 / 3])]
    first, state = rule.gradient(value_and_grad, w, rule.step(0))
    assert len(calls) == 2
    # g = (3, 4), ε = 0.5 g / 5 = (0.3, 0.4), g̃ = (3.3, 5.2), ⟨g̃, g⟩ / ‖g‖² = 1.228
    np.testing.assert_allclose(to_numpy(first[0]), [3.3, 5.2], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(state[0][0]), [-0.384, 0.288], rtol=1e-5)
    second, state = rule.gradient(value_and_grad, w, rule.step(1, state=state))
    assert len(calls) == 3
    # g + 0.5 * 5 * (−0.8, 0.6)
    np.testing.assert_allclose(to_numpy(second[0]), [1.0, 5.5], rtol=1e-5)
    np.testing.assert_allclose(to_numpy(state[0][0]), [-0.384, 0.288], rtol=1e-5)


def test_looksam_while_rho_is_0_is_plain_sgd():
    """Nothing is reused of a look that found no difference but rounding."""
    x, y = table()
    late = keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.0, 0.1])
    model, plain = compiled(LookSAM(late, k=2, alpha=0.5)), compiled(None, **EAGERLY)
    model.fit(x, y, epochs=2, **FIT)
    plain.fit(x, y, epochs=2, **FIT)
    for got, want in zip(values_of(model.variables), values_of(plain.variables), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_asams_neighbourhood_does_not_notice_that_layers_are_rescaled():
    """A relu net with one layer times 4 and the next by 4 computes the same function, and the loss at w + ε as well."""

    def loss(weights):
        a, b = weights
        x = ops.convert_to_tensor(data(16)[0].astype("float32"))
        return ops.mean(ops.sum(ops.relu(x[:, :, None] * a[None]), 1) * b)

    random = np.random.default_rng(0)
    a, b = (random.normal(size=s).astype("float32") for s in [(3, 4), (4,)])
    losses = {}
    for rule in (keras_sam.ASAM(0.5, eta=0.0), SAM(0.5)):
        for scale in (1.0, 4.0):
            weights = [ops.convert_to_tensor(a * scale), ops.convert_to_tensor(b / scale)]
            _, gradient = backend.value_and_grad(loss)(weights)
            epsilon = rule.ascend(weights, gradient, rule.step(0, ["hidden/kernel", "out/kernel"]))
            losses[rule.__class__, scale] = float(loss([w + e for w, e in zip(weights, epsilon)]))
    np.testing.assert_allclose(losses[keras_sam.ASAM, 4.0], losses[keras_sam.ASAM, 1.0], rtol=1e-5)
    assert abs(losses[SAM, 4.0] - losses[SAM, 1.0]) > 0.01


def test_asam_knows_biases_by_their_paths():
    """Those of Keras's layers and of torch's; in a loop that says nothing of its weights it would scale them all."""
    rule = keras_sam.ASAM(0.5, eta=0.0)
    weights, gradient = ([ops.convert_to_tensor([v]) for v in values] for values in [(2.0, 5.0), (3.0, 4.0)])
    for bias in ("dense/bias", "0.bias", "bias", "norm/beta", "gru/recurrent_bias"):
        (a, b), norm = rule.ascend(weights, gradient, rule.step(0, ["dense/kernel", bias])), np.hypot(2 * 3, 4)
        np.testing.assert_allclose([to_numpy(a)[0], to_numpy(b)[0]], [0.5 * 4 * 3 / norm, 0.5 * 4 / norm], rtol=1e-6)
    (a, b), norm = rule.ascend(weights, gradient, rule.step(0, ["dense/kernel", "bias/gamma"])), np.hypot(2 * 3, 5 * 4)
    np.testing.assert_allclose([to_numpy(a)[0], to_numpy(b)[0]], [0.5 * 4 * 3 / norm, 0.5 * 25 * 4 / norm], rtol=1e-6)
    with pytest.raises(ValueError, match=r"`ASAM` tells biases, which it does not scale, by the paths of variables"):
        rule.ascend(weights, gradient, rule.step(0))


# What the optimizer makes of a gradient, beside reference.msam.
def adam(g, m, v, t, rate=2**-5):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    # Keras's ε is beside the root without its correction of bias.
    return -rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 2**-4), m, v


def lion(g, m, v, t, rate=2**-5):
    return -rate * np.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g, v


@pytest.mark.parametrize(
    ("optimizer", "update"),
    [
        (lambda: keras.optimizers.Adam(2**-5, epsilon=2**-4), adam),
        (lambda: keras.optimizers.AdamW(2**-5, epsilon=2**-4, weight_decay=0.0), adam),
        (lambda: keras.optimizers.Lion(2**-5), lion),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(2**-5, epsilon=2**-4), initial_scale=8),
            adam,
        ),
    ],
    ids=["Adam", "AdamW", "Lion", "LossScaleOptimizer"],
)
@pytest.mark.usefixtures("float64")
def test_msam_knows_the_momentum_of(optimizer, update):
    x, y = data(24)
    model = tanh_net()
    w, m, v = flat(weights_of(model)), 0.0, 0.0
    for t, batch in enumerate(batches(x, y), 1):
        g = reference.msam(gradient_on(*batch, DECAY), w, RHO, m * np.ones(w.size))
        change, m, v = update(g, m, v, t)
        w = w + change
    model.compile(optimizer(), keras.losses.MeanSquaredError(dtype="float64"), sam=keras_sam.MSAM(RHO))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    # Keras keeps 0.9 and 0.999 in float32 on the way.
    for got, want in zip(weights_of(model), unflat(w), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_the_wrong_sign_of_msams_momentum_collapses(optimizer, monkeypatch):
    """Least squares with exactly representable labels: MSAM fits them, its mirror image runs away from them."""
    from keras_sam.backend import keras_private

    x, y = table(64)
    y = x @ np.array([[1.0, -2.0], [0.5, 1.0], [-1.0, 0.0]], "float32")
    made = {"SGD": lambda: keras.optimizers.SGD(0.0625, momentum=0.9), "Adam": lambda: keras.optimizers.Adam(0.0625)}

    def final_loss(rule):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = SAMModel(inputs, layers.Dense(2, kernel_initializer="zeros")(inputs))
        model.compile(made[optimizer](), "mse", sam=rule)
        # 60 epochs as one.
        model.fit(np.tile(x, (60, 1)), np.tile(y, (60, 1)), batch_size=16, shuffle=False, verbose=0)
        return np.mean((model.predict_on_batch(x) - y) ** 2)

    right = final_loss(keras_sam.MSAM(0.5))
    original = keras_private.momentum
    monkeypatch.setattr(keras_private, "momentum", lambda *args: [-ops.convert_to_tensor(m) for m in original(*args)])
    wrong = final_loss(keras_sam.MSAM(0.5))
    assert right < 0.01 < 0.1 < wrong


@pytest.mark.skipif(BACKEND == "jax", reason="there Keras refuses an optimizer of more variables than are trained")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_msam_knows_each_weights_own_momentum_after_some_are_frozen(optimizer):
    inputs = keras.Input((3,))
    frozen, trained = layers.Dense(3), layers.Dense(3)
    model = SAMModel(inputs, trained(frozen(inputs)))
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    optimizer = getattr(keras.optimizers, optimizer)(0.125, **options)
    model.compile(optimizer, "mse", sam=keras_sam.MSAM(), **EAGERLY)
    x, _ = table()
    model.fit(x, x, **FIT)
    frozen.trainable = False
    model.compile(optimizer, "mse", sam=keras_sam.MSAM(), **EAGERLY)
    kernel, bias = step_of(model).momentum
    own = [v for v in optimizer.variables if "momentum" in v.path and trained.name in v.path]
    sign = -1 if options else 1
    np.testing.assert_array_equal(to_numpy(kernel), sign * to_numpy(own[0]))
    np.testing.assert_array_equal(to_numpy(bias), sign * to_numpy(own[1]))
    assert np.abs(to_numpy(kernel)).max() > 0


class ExactDense(layers.Dense):
    """Without a matrix product, which Keras computes in float32 on torch."""

    def call(self, x):
        return ops.sum(x[:, :, None] * self.kernel, axis=1) + self.bias


@pytest.mark.skipif(BACKEND == "jax", reason="there Keras refuses an optimizer of more variables than are trained")
@pytest.mark.usefixtures("float64")
def test_each_weight_has_its_own_state_after_some_are_frozen():
    """Without another `compile`, as plain Keras trains on; the weights that are frozen come first."""
    inputs = keras.Input((3,))
    frozen, last = layers.Dense(2, "tanh"), ExactDense(2)
    model, rule = SAMModel(inputs, last(frozen(inputs))), FriendlySAM(0.1, sigma=0.75, decay=0.5)
    model.compile(keras.optimizers.SGD(1.0), keras.losses.MeanSquaredError(dtype="float64"), sam=rule, **EAGERLY)
    x, y = data(8)
    model.train_on_batch(x, y)
    frozen.trainable = False
    w, h = flat(values_of(last.variables)), to_numpy(frozen(x))
    kept = flat(values_of([v for v in model.optimizer.variables if "_keras_sam_" in v.name][2:]))

    def gradient_at(w):
        error = (h @ w[:4].reshape(2, 2) + w[4:] - y) / len(x)
        return np.concatenate([(h.T @ error).ravel(), error.sum(0)])

    applied, kept = reference.friendly_sam(gradient_at, w, 0.1, 0.75, 0.5, kept)
    model.train_on_batch(x, y)
    np.testing.assert_allclose(flat(values_of(last.variables)), w - applied, rtol=1e-9)
    np.testing.assert_allclose(flat(values_of(rule_state.read(model)[0])), kept, rtol=1e-9)
    assert np.abs(kept).max() > 0


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad", "nadam"])
def test_msam_refuses_an_optimizer_without_such_momentum(optimizer):
    found = "SGD without momentum" if optimizer == "sgd" else keras.optimizers.get(optimizer).__class__.__name__
    with pytest.raises(ValueError, match=rf"Received {found}; expected one of `keras.optimizers.SGD\(momentum=…\)`"):
        small_net().compile(optimizer, "mse", sam=keras_sam.MSAM())


def test_msam_says_which_weights_the_optimizer_does_not_know():
    x, y = table()
    model = small_net()
    first = model.layers[1]
    first.trainable = False
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", sam=keras_sam.MSAM(), **EAGERLY)
    model.fit(x, y, **FIT)
    first.trainable, model.train_function = True, None
    with pytest.raises(ValueError, match=r"keeps no momentum for one of the \d weights.*Call `compile` again"):
        model.fit(x, y, **FIT)


def test_msam_without_momentum_in_a_custom_loop():
    rule = keras_sam.MSAM()
    with pytest.raises(ValueError, match="needs the optimizer's momentum"):
        rule.gradient(backend.value_and_grad(lambda w: ops.sum(w[0])), [ops.ones(2)], rule.step(0))


def kept(model):
    return [v for v in model.optimizer.variables if "keras_sam" in v.path]


def test_looksam_logs_the_sharpness_of_the_steps_that_look():
    """Without learning: SAM's own on the batches of every second step."""
    x, y = table()
    logs = []
    for rule, batches in ((LookSAM(0.1, k=2), [0, 1, 2, 3]), (SAM(0.1), [0, 2])):
        rows = np.concatenate([np.arange(6 * i, 6 * i + 6) for i in batches])
        model = compiled(rule)
        model.optimizer.learning_rate = 0.0
        logs.append(model.fit(x[rows], y[rows], batch_size=6, shuffle=False, verbose=0).history["sharpness"])
    np.testing.assert_allclose(*logs, rtol=1e-6)
    assert logs[0][0] > 0


@pytest.mark.parametrize("rule", [FriendlySAM(0.1), LookSAM(0.1, k=3)], ids=repr)
def test_the_state_is_the_optimizers_and_not_the_models(rule):
    x, y = table()
    model, plain = compiled(rule, **EAGERLY), compiled(None, cls=keras.Model, **EAGERLY)
    for m in (model, plain):
        m.fit(x, y, **FIT)
    assert len(model.variables) == len(plain.variables)
    assert [tuple(v.shape) for v in kept(model)] == [tuple(v.shape) for v in model.trainable_variables]
    assert len(model.optimizer.variables) == len(plain.optimizer.variables) + len(model.trainable_variables)
    assert all(np.abs(to_numpy(v)).max() > 0 for v in kept(model))


@pytest.mark.parametrize("again", [FriendlySAM(0.1), LookSAM(0.1, k=3), SAM(0.1), None], ids=repr)
def test_a_second_compile_starts_afresh(again):
    """With the optimizer of the first, whose momentum goes on, as in Keras."""
    x, y = table()
    model = compiled(FriendlySAM(0.1), **EAGERLY)
    model.fit(x, y, **FIT)
    optimizer = model.optimizer
    model.compile(optimizer, "mse", sam=again, **EAGERLY)
    assert kept(model) == []
    model.make_train_function()
    slots = again.slots if again else ()
    assert len(kept(model)) == len(slots) * len(model.trainable_variables)
    assert all((to_numpy(v) == 0).all() for v in kept(model))
    model.fit(x, y, **FIT)


def test_a_step_that_loss_scaling_skips_leaves_the_state_alone():
    x, y = table()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125), initial_scale=8)
    model = small_net()
    model.compile(optimizer, "mse", sam=FriendlySAM(0.1))
    optimizer.build(model.trainable_variables)
    model.fit(x, y, **FIT)
    before = values_of(kept(model))
    x = x.copy()
    x[0] = np.inf
    model.train_on_batch(x[:8], y[:8])
    for got, want in zip(values_of(kept(model)), before, strict=True):
        np.testing.assert_array_equal(got, want)
    model.train_on_batch(x[8:16], y[8:16])
    assert any((g != b).any() for g, b in zip(values_of(kept(model)), before))


def test_so_does_one_that_only_the_second_pass_overflows():
    """What FriendlySAM keeps is of the first pass, whose gradient is finite."""
    model = model_of(layers.Dense(2, dtype="mixed_float16"), Overflow(in_ascent=False))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125), initial_scale=8)
    model.compile(optimizer, "mse", sam=FriendlySAM(0.1))
    model.train_on_batch(ROWS, TARGETS)
    assert int(optimizer.iterations) == 0
    for value in values_of(kept(model)):
        np.testing.assert_array_equal(value, 0)


def test_looksam_leaves_the_second_gradient_out_whatever_integer_counts():
    rule, calls = LookSAM(0.1, k=2), []
    square = backend.value_and_grad(lambda w: ops.sum(w[0] ** 2))

    def value_and_grad(weights):
        calls.append(1)
        return square(weights)

    for iteration in (0, np.int64(1), np.int32(2), 3):
        calls.append(0)
        rule.gradient(value_and_grad, [ops.ones(2)], rule.step(iteration))
    assert calls == [0, 1, 1, 0, 1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LookSAM(k=0), r"Received `k=0` for `LookSAM`.*expected an integer ≥ 1"),
        (lambda: LookSAM(k=2.5), r"Received `k=2.5`"),
        (lambda: LookSAM(alpha=-1), r"`alpha=-1`; expected a finite number ≥ 0"),
        (lambda: keras_sam.GSAM(alpha=-0.1), r"`alpha=-0.1`; expected a finite number ≥ 0"),
        (lambda: FriendlySAM(decay=1.0), r"`decay=1.0`; expected a number in \[0, 1\)"),
        (lambda: FriendlySAM(decay=-0.1), r"`decay=-0.1`"),
        (lambda: FriendlySAM(sigma="a"), r"`sigma='a'`"),
        (lambda: keras_sam.ASAM(eta=-0.01), r"`eta=-0.01`"),
        (lambda: keras_sam.MSAM(rho=-1), r"`rho=-1`"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["asam", "gsam", "FriendlySAM", "looksam", "msam"])
def test_compile_takes_the_names(name):
    assert type(keras_sam.rules.get(name)).__name__.lower() == name.lower()
