"""Layers and optimizers that other implementations of SAM train wrongly: each is right here, or refused by name."""

import functools
import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_sam

ROWS = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
TARGETS = ROWS[:, :2] * 0.5


def model_of(*stack, inputs=None, cls=keras_sam.SAMModel):
    x = inputs = inputs if inputs is not None else keras.Input((3,))
    for layer in stack:
        x = layer(x)
    return cls(inputs, x)


def variables_of(model):
    return [v.numpy() for v in model.variables]


def assert_equal(got, expected):
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)


class UnseededDropout(layers.Layer):
    """Draws from Keras's global generator, which is no variable of the model."""

    def call(self, x, training=False):
        return keras.random.dropout(x, 0.5) if training else x


def test_unseeded_dropout_draws_the_same_mask_in_both_passes_and_another_one_next_step():
    masks = []

    class Recorder(layers.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor) and tf.executing_eagerly():
                masks.append(x.numpy() != 0)
            return x

    model = model_of(layers.Dense(64), UnseededDropout(), Recorder(), layers.Dense(2))
    model.compile("sgd", "mse", run_eagerly=True)
    for _ in range(2):
        model.train_on_batch(ROWS, TARGETS)
    first, second, third, fourth = masks
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(third, fourth)
    assert (first != third).mean() > 0.4  # two independent masks differ in half of their entries


def test_the_global_generator_moves_on_in_graph_mode_as_in_keras():
    draws = []
    for cls, options in [(keras_sam.SAMModel, {"sam": "sam"}), (keras.Model, {})]:
        # Drops the global generator, which a new seed does not begin anew in Keras 3.10 to 3.12.
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        model = model_of(layers.Dense(4), UnseededDropout(), layers.Dense(2), cls=cls)
        model.compile("sgd", "mse", **options)
        model.fit(ROWS, TARGETS, batch_size=8, epochs=2, verbose=0)
        draws.append(ops.convert_to_numpy(keras.random.uniform((4,))))
    np.testing.assert_array_equal(*draws)


class Compiled(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    @tf.function
    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=str)
def test_a_tf_function_in_call_is_refused_by_the_names_of_its_weights(options):
    model = model_of(layers.Dense(4), Compiled(2))
    model.compile("sgd", "mse", **options)
    before = variables_of(model)
    with pytest.raises(ValueError, match=r"(?s)own copy of .*tf\.function.*sam=None"):
        model.fit(ROWS, TARGETS, verbose=0)
    assert_equal(variables_of(model)[:4], before[:4])


def test_a_saved_model_as_a_layer_is_refused(tmp_path):
    model_of(layers.Dense(4), cls=keras.Model).export(tmp_path / "inner", verbose=False)
    frozen = layers.TFSMLayer(tmp_path / "inner", call_endpoint="serve")
    model = model_of(frozen, layers.Dense(2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="own copy of"):
        model.train_on_batch(ROWS, TARGETS)


def test_spectral_normalization_is_refused_by_name():
    model = model_of(layers.SpectralNormalization(layers.Dense(2)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"(?s)trainable variable `spectral_normalization.*kernel`.*sam=None"):
        model.fit(ROWS, TARGETS, verbose=0)


def test_rematerialization_is_refused_by_name_at_compile():
    with keras.RematScope(mode="full"):
        layer = layers.Dense(2, name="remembered")
    with pytest.raises(ValueError, match=r"(?s)`remembered` was made under `keras.RematScope`"):
        model_of(layer).compile("sgd", "mse")


class DroppingCell(layers.Layer):
    def __init__(self):
        super().__init__()
        self.state_size = self.output_size = 4
        self.dense, self.dropout = layers.Dense(4), layers.Dropout(0.5)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, states, training=False):
        x = self.dropout(self.dense(x), training=training)
        return x, [x]


def test_dropout_in_a_cell_is_refused_by_name_and_works_unrolled():
    x = ROWS[..., None]
    looped = model_of(layers.RNN(DroppingCell()), layers.Dense(2), inputs=keras.Input((3, 1)))
    looped.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"(?s)seed_generator_state` is updated inside a loop.*unroll=True"):
        looped.fit(x, TARGETS, verbose=0)
    unrolled = model_of(layers.RNN(DroppingCell(), unroll=True), layers.Dense(2), inputs=keras.Input((3, 1)))
    unrolled.compile("sgd", "mse")
    assert unrolled.train_on_batch(x, TARGETS)[1] != 0


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
    clean = ROWS @ dense.kernel.numpy() + dense.bias.numpy()
    logs = model.train_on_batch(ROWS, TARGETS, return_dict=True)
    np.testing.assert_allclose(meter.last.numpy(), clean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(logs["output"], clean.mean(), rtol=1e-5)


def test_a_float8_scale_is_outside_the_norm_and_keeps_the_clean_passs_value():
    """Rule-level: what the optimizer overwrites does not move and does not count."""
    rule = keras_sam.SAM(rho=1.0)
    weight, scale = keras.Variable(np.zeros(2)), keras.Variable(np.ones(3))
    scale.overwrite_with_gradient = True
    weights = [ops.convert_to_tensor(weight), ops.convert_to_tensor(scale)]
    gradient = [ops.convert_to_tensor([3.0, 4.0]), 100.0 * ops.ones(3)]
    moved, kept = rule.perturb(weights, gradient, rule.step(0, [weight, scale]))
    np.testing.assert_allclose(moved, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(kept, np.ones(3))


def test_float8_layers_train_as_in_keras_where_rho_is_0():
    never = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.0])
    results = []
    for cls, options in [(keras_sam.SAMModel, {"sam": keras_sam.SAM(never)}), (keras.Model, {})]:
        keras.utils.set_random_seed(1)
        dense = layers.Dense(4, dtype="float8_from_mixed_bfloat16")
        model = model_of(dense, layers.Dense(2), cls=cls)
        model.compile("sgd", "mse", **options)
        model.fit(ROWS, TARGETS, epochs=3, verbose=0)
        results.append([v.numpy() for v in model.trainable_variables])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


class Overflow(layers.Layer):
    """Makes the loss infinite in one of SAM's passes."""

    def __init__(self, in_ascent):
        super().__init__()
        self.in_ascent = in_ascent

    def call(self, x, training=False):
        return x * ops.cast(1e6, x.dtype) if training and keras_sam.in_ascent() is self.in_ascent else x


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("p", [2.0, float("inf")])
@pytest.mark.parametrize("in_ascent", [True, False])
def test_an_overflow_in_either_pass_skips_the_update_and_halves_the_scale(in_ascent, p, jit_compile):
    """With p = ∞ the sign of an infinite gradient is finite, and so is the second pass."""
    model = model_of(layers.Dense(2, dtype="mixed_float16"), Overflow(in_ascent))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=1024.0)
    model.compile(optimizer, "mse", sam=keras_sam.SAM(rho=0.1, p=p), jit_compile=jit_compile)
    before = [v.numpy() for v in model.trainable_variables]
    model.train_on_batch(ROWS, TARGETS)
    assert_equal([v.numpy() for v in model.trainable_variables], before)
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
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-2, atol=2e-3)


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
    assert np.isfinite(history["sharpness"]).all()


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


SYNCHRONIZED = """
import keras, keras_sam, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
rho = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.1])
def trained(replicas, synchronized):
    keras.utils.set_random_seed(0)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        inputs = keras.Input((3,))
        normal = keras.layers.BatchNormalization(synchronized=synchronized)(keras.layers.Dense(4)(inputs))
        model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(normal))
        model.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(rho))
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :2])).batch(16)
    return model, model.fit(data, epochs=4, verbose=0).history
model, history = trained(2, True)
assert history["sharpness"][:2] == [0.0, 0.0] and min(history["sharpness"][2:]) > 0, history
assert len({float(v.numpy().sum()) for v in model.layers[2].variables}) == 4
plain = trained(1, False)[1]
np.testing.assert_allclose(history["loss"][:3], plain["loss"][:3], rtol=1e-4)
"""


def test_synchronized_batch_normalization_under_a_schedule():
    """In a process of its own: TensorFlow mixes up the collectives of a second model with such a layer."""
    result = subprocess.run([sys.executable, "-c", SYNCHRONIZED], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
