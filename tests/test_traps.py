"""Layers and optimizers that other implementations of SAM train wrongly: each is right here, or refused by name."""

import functools
import gc
import random

import keras
import numpy as np
import oracle
import pytest
from conftest import BACKEND
from keras import layers, ops
from oracle import to_numpy

import keras_sam

ROWS = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
TARGETS = ROWS[:, :2] * 0.5


def model_of(*stack, inputs=None, cls=keras_sam.SAMModel):
    x = inputs = inputs if inputs is not None else keras.Input((3,))
    for layer in stack:
        x = layer(x)
    return cls(inputs, x)


def variables_of(model):
    return [to_numpy(v) for v in model.variables]


def assert_equal(got, expected):
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)


def test_spectral_normalization_is_refused_by_name():
    model = model_of(layers.SpectralNormalization(layers.Dense(2)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"(?s)trainable variable `spectral_normalization.*kernel`.*sam=None"):
        model.fit(ROWS, TARGETS, verbose=0)


class Recomputing(layers.Layer):
    """Computes its forward pass once more for the backward pass, by `keras.remat` inside of `call`."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, "tanh")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.remat(lambda x: self.dense(x))(x)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


# To a first layer no gradient flows back, so that nothing is computed once more.
@pytest.mark.parametrize("before", [layers.Identity, lambda: layers.Dense(3)], ids=["first", "second"])
def test_a_layer_that_recomputes_is_right_or_refused_by_name(before):
    keras.utils.set_random_seed(0)
    model, expected = (model_of(before(), layer, layers.Dense(2)) for layer in (Recomputing(), layers.Dense(4, "tanh")))
    expected.set_weights(model.get_weights())
    for m in (model, expected):
        m.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(0.5))
    if BACKEND != "jax":
        message = r"(?s)A layer reads `.*dense.*` to compute .* once more, as with `keras.remat`.*sam=None"
        initial = variables_of(model)
        with pytest.raises(ValueError, match=message):
            model.fit(ROWS, TARGETS, verbose=0)
        assert_equal(variables_of(model), initial)
        with pytest.raises(ValueError, match=message):
            keras_sam.sharpness.sharpness(model, (ROWS, TARGETS), rho=0.5)
        return
    got, want = (keras_sam.sharpness.sharpness(m, (ROWS, TARGETS), rho=0.5).loss for m in (model, expected))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for m in (model, expected):
        m.fit(ROWS, TARGETS, verbose=0)
    for got, want in zip(variables_of(model), variables_of(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


class Drawing(layers.Layer):
    """Draws from Python's and NumPy's generators, as `keras.layers.AugMix` does."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def call(self, x):
        self.drawn.append((random.random(), np.random.uniform()))
        return x * self.drawn[-1][0]


@pytest.mark.skipif(BACKEND == "torch", reason="there it draws in every step: docs/limits.md")
def test_both_passes_draw_the_same_from_python_while_they_are_traced():
    layer = Drawing()
    model = model_of(layer, layers.Dense(2))
    model.compile("sgd", "mse")
    layer.drawn.clear()
    model.train_on_batch(ROWS, TARGETS)
    assert len(layer.drawn) >= 2
    assert layer.drawn[-1] == layer.drawn[-2]


class Stopped(keras_sam.SAMModel):
    """sg(s) a x + s x."""

    def build(self, shape):
        self.s, self.a = (self.add_weight(shape=(1,), name=name) for name in "sa")
        self.built = True

    def call(self, x):
        return ops.stop_gradient(self.s) * self.a * x + self.s * x


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_weight_may_be_read_without_its_gradient(run_eagerly):
    """Of ½ y² the gradient is (y, y s), at s = 2, a = 1 along (1, 2)."""
    model = Stopped()
    model.build((None, 1))
    model.set_weights([np.full(1, 2.0), np.full(1, 1.0)])
    model.compile(keras.optimizers.SGD(0.5), "mse", sam=keras_sam.SAM(0.5), run_eagerly=run_eagerly)
    model.train_on_batch(np.ones((4, 1), "float32"), np.zeros((4, 1), "float32"))
    s, a = np.array([2.0, 1.0]) + 0.5 * np.array([1.0, 2.0]) / np.sqrt(5)
    y = s * a + s
    np.testing.assert_allclose(np.ravel(model.get_weights()), [2 - y, 1 - y * s], rtol=1e-6)


def test_layers_state_beside_the_weights_is_kept_from_the_clean_pass():
    class Meter(layers.Layer):
        """Custom state and a metric updated in `call`."""

        def __init__(self):
            super().__init__()
            self.last = self.add_weight(shape=(2,), trainable=False, initializer="zeros")
            self.mean = keras.metrics.Mean(name="output")

        def call(self, x, training=False):
            if training:
                self.last.assign(ops.mean(x, axis=0))
                self.mean.update_state(x)
            return x

    dense, meter = layers.Dense(2), Meter()
    model = model_of(dense, meter)
    model.compile("sgd", "mse", sam=keras_sam.SAM(rho=1.0))
    clean = ROWS @ to_numpy(dense.kernel) + to_numpy(dense.bias)
    logs = model.train_on_batch(ROWS, TARGETS, return_dict=True)
    np.testing.assert_allclose(to_numpy(meter.last), clean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(logs["output"], clean.mean(), rtol=1e-5)


def test_a_float8_scale_is_outside_the_norm_and_keeps_the_clean_passs_value():
    """Rule-level: what the optimizer overwrites does not move and does not count."""
    rule = keras_sam.SAM(rho=1.0)
    weight, scale = keras.Variable(np.zeros(2)), keras.Variable(np.ones(3))
    scale.overwrite_with_gradient = True
    weights = [ops.convert_to_tensor(weight), ops.convert_to_tensor(scale)]
    gradient = [ops.convert_to_tensor([3.0, 4.0]), 100.0 * ops.ones(3)]
    epsilon, kept = rule.ascend(weights, gradient, rule.step(0, [weight, scale]))
    np.testing.assert_allclose(to_numpy(epsilon), [0.6, 0.8], rtol=1e-6)
    assert kept is None


@pytest.mark.parametrize("options", [{"m": 4}, {"ascent_fraction": 0.5}], ids=str)
def test_float8_is_refused_in_parts_of_a_batch(options):
    model = model_of(layers.Dense(2, dtype="float8_from_mixed_bfloat16"))
    with pytest.raises(ValueError, match=r"computes in float8.*Expected `m=None` or `m='global'`"):
        model.compile("sgd", "mse", sam=keras_sam.SAM(0.1, **options))
    with pytest.raises(ValueError, match=r"computes in float8.*Measure the model as it was before `quantize`"):
        keras_sam.sharpness.hessian_trace(compiled_float8(keras_sam.SAM(0.1)), (ROWS, TARGETS), verbose=0)


def compiled_float8(rule):
    model = model_of(layers.Dense(4, dtype="float8_from_mixed_bfloat16"), layers.Dense(2))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", sam=rule)
    return model


def test_a_float8_model_and_what_its_rule_keeps_are_loaded_again(tmp_path):
    """As `quantize` makes them, which puts the scales in another order than a file does."""
    network = model_of(layers.Dense(2), cls=keras.Model)
    network.quantize("float8")
    model = keras_sam.SAMModel.from_model(network)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", sam=keras_sam.FriendlySAM(0.1))
    model.fit(ROWS, TARGETS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        m.fit(ROWS, TARGETS, shuffle=False, verbose=0)
    assert_equal(loaded.predict(ROWS, verbose=0), model.predict(ROWS, verbose=0))


def test_float8_layers_train_as_in_keras_where_rho_is_0():
    never = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.0])
    results = []
    for cls, options in [(keras_sam.SAMModel, {"sam": keras_sam.SAM(never)}), (keras.Model, {})]:
        keras.utils.set_random_seed(1)
        dense = layers.Dense(4, dtype="float8_from_mixed_bfloat16")
        model = model_of(dense, layers.Dense(2), cls=cls)
        model.compile("sgd", "mse", **options)
        model.fit(ROWS, TARGETS, epochs=3, verbose=0)
        results.append([to_numpy(v) for v in model.trainable_variables])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


class Overflow(layers.Layer):
    """Makes the loss infinite in one of SAM's passes."""

    def __init__(self, in_ascent):
        super().__init__()
        self.in_ascent = in_ascent

    def call(self, x, training=False):
        return x * ops.cast(1e6, x.dtype) if training and keras_sam.in_ascent() is self.in_ascent else x


@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
@pytest.mark.parametrize("p", [2.0, float("inf")])
@pytest.mark.parametrize("in_ascent", [True, False])
def test_an_overflow_in_either_pass_skips_the_update_and_halves_the_scale(in_ascent, p, jit_compile):
    """With p = ∞ the sign of an infinite gradient is finite, and so is the second pass."""
    model = model_of(layers.Dense(2, dtype="mixed_float16"), Overflow(in_ascent))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=1024.0)
    model.compile(optimizer, "mse", sam=keras_sam.SAM(rho=0.1, p=p), jit_compile=jit_compile)
    before = [to_numpy(v) for v in model.trainable_variables]
    model.train_on_batch(ROWS, TARGETS)
    assert_equal([to_numpy(v) for v in model.trainable_variables], before)
    assert float(optimizer.dynamic_scale) == 512.0
    assert int(optimizer.iterations) == 0


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_equals_perturbing_in_place(dtype):
    def made(cls, **options):
        keras.utils.set_random_seed(1)
        dense = functools.partial(layers.Dense, dtype=dtype)
        model = model_of(dense(8, "tanh"), layers.Dense(2, dtype="float32"), cls=cls)
        model.compile(keras.optimizers.SGD(0.1), "mse", **options)
        return model

    model, expected = made(keras_sam.SAMModel, sam=keras_sam.SAM(rho=0.1)), made(keras.Model)
    if dtype == "mixed_float16":
        # The scale is a power of two, so that it leaves no trace in the numbers.
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**10)
        model.compile(scaled, "mse", sam=keras_sam.SAM(rho=0.1))
    for _ in range(3):
        oracle.train_on_batch(expected, ROWS, TARGETS, rho=0.1)
        model.train_on_batch(ROWS, TARGETS)
    for got, want in zip(model.trainable_variables, expected.trainable_variables):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=2e-2, atol=2e-3)


def test_mixed_float16_wraps_the_optimizer_as_keras_does():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = model_of(layers.Dense(2))
        model.compile("sgd", "mse")
        history = model.fit(ROWS, TARGETS, epochs=5, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(model.optimizer.iterations) == 5
    assert (np.array(history["sharpness"]) > 0).all()


@pytest.mark.parametrize("factor", [3.0, 1024.0])
def test_a_fixed_loss_scale_leaves_epsilon_and_the_update_alone(factor):
    def made(factor):
        keras.utils.set_random_seed(1)
        model = model_of(layers.Dense(8, "tanh"), layers.Dense(2))
        model.compile(keras.optimizers.SGD(0.1, loss_scale_factor=factor), "mse")
        model.fit(ROWS, TARGETS, epochs=3, verbose=0)
        return variables_of(model)

    for got, expected in zip(made(factor), made(None), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_what_a_layer_assigns_from_a_weight_is_the_weight_before_the_update(run_eagerly):
    class Previous(layers.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(3, 2), name="kernel")
            self.previous = self.add_weight(shape=(3, 2), name="previous", trainable=False, initializer="zeros")

        def call(self, x):
            self.previous.assign(self.kernel)
            return x @ self.kernel

    inputs, layer = keras.Input((3,)), Previous()
    model = keras_sam.SAMModel(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(0.05), run_eagerly=run_eagerly)
    before = to_numpy(layer.kernel).copy()
    model.train_on_batch(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"))
    np.testing.assert_array_equal(to_numpy(layer.previous), before)
    assert np.abs(to_numpy(layer.kernel) - before).min() > 1e-3


@pytest.mark.skipif(BACKEND != "torch", reason="the only backend whose `keras.tree` makes cyclic garbage")
@pytest.mark.parametrize(
    ("rule", "copies"),
    [
        (keras_sam.SAM(0.1), 1),
        (keras_sam.SAM(0.1, m=1), 1),
        (keras_sam.FriendlySAM(0.1), 2),
        (keras_sam.FriendlySAM(0.1, m=1), 2),
        (keras_sam.LookSAM(0.1), 2),
    ],
    ids=repr,
)
def test_a_step_leaves_no_copy_of_the_weights_to_the_garbage_collector(rule, copies):
    import torch

    x, shape = np.ones((2, 37), "float32"), (37, 41)
    inputs = keras.Input(shape[:1])
    model = keras_sam.SAMModel(inputs, layers.Dense(shape[1], use_bias=False)(inputs))
    model.compile("sgd", "mse", sam=rule)
    y = np.ones((2, shape[1]), "float32")
    model.train_on_batch(x, y)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            model.train_on_batch(x, y)
        tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == shape]
        # The weight, and what the rule keeps of it.
        assert len({t.untyped_storage().data_ptr() for t in tensors}) == copies
    finally:
        gc.enable()
