"""Layers that are TensorFlow's own, or wrong on it alone: each is trained rightly, or refused by name."""

import collections
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from test_traps import ROWS, TARGETS, assert_equal, model_of, variables_of

import keras_sam


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


@pytest.mark.parametrize("m", [None, 4])
def test_a_gradient_whose_shape_no_graph_knows(m):
    """Of a `Dense` on one feature, in a batch whose size the graph does not know."""
    series, targets = np.random.default_rng(0).normal(size=(9, 5, 1)), np.ones((9, 5, 2))
    trained = []
    for run_eagerly in (False, True):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((5, 1))
        model = keras_sam.SAMModel(inputs, layers.Dense(2)(inputs))
        model.compile("sgd", "mse", sam=keras_sam.SAM(0.1, m=m), run_eagerly=run_eagerly)
        model.fit(series, targets, batch_size=8, verbose=0)
        trained.append(variables_of(model))
    for got, want in zip(*trained, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


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


def test_layers_that_hide_their_weights_are_not_measured():
    with keras.RematScope(mode="full"):
        remembered = layers.Dense(4, name="remembered")
    for layer, message in ((Compiled(4), "own copy of `compiled.*"), (remembered, "`remembered` was made under")):
        model = model_of(layer, cls=keras.Model)
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=message):
            keras_sam.sharpness.hessian_eigenvalues(model, (ROWS, np.zeros((16, 4))), k=1)


def test_a_saved_model_as_a_layer_is_refused(tmp_path):
    model_of(layers.Dense(4), cls=keras.Model).export(tmp_path / "inner", verbose=False)
    frozen = layers.TFSMLayer(tmp_path / "inner", call_endpoint="serve")
    model = model_of(frozen, layers.Dense(2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="own copy of"):
        model.train_on_batch(ROWS, TARGETS)


class Remembering(layers.Layer):
    """Computes a tensor of its weight once for both passes."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 2))
        self.doubled = {}

    def call(self, x):
        return x @ self.doubled.setdefault(tf.compat.v1.get_default_graph(), 2 * self.w)


def test_a_tensor_of_a_weight_that_outlives_its_pass_is_refused():
    model = model_of(layers.Dense(4), Remembering())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="own copy of some weights"):
        model.train_on_batch(ROWS, TARGETS)


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


def test_sparse_inputs_train_whole_and_are_refused_in_micro_batches():
    inputs = keras.Input((3,), sparse=True)
    model = keras_sam.SAMModel(inputs, layers.Dense(2)(inputs))
    dense = model_of(layers.Dense(2))
    dense.set_weights(model.get_weights())
    for m in (model, dense):
        m.compile("sgd", "mse", sam=keras_sam.SAM(0.1))
    sparse = tf.sparse.from_dense(ROWS)
    model.train_on_batch(sparse, TARGETS)
    dense.train_on_batch(ROWS, TARGETS)
    np.testing.assert_allclose(model.get_weights()[0], dense.get_weights()[0], rtol=1e-5)
    model.compile("sgd", "mse", sam=keras_sam.SAM(m=4))
    with pytest.raises(ValueError, match="has a SparseTensor, which cannot be cut"):
        model.train_on_batch(sparse, TARGETS)


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


class Branching(keras_sam.SAMModel):
    """Looks at the values of its input, and has a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2, use_bias=False, kernel_initializer="ones")
        self.unused, self.calls = layers.Dense(2), 0

    def call(self, x):
        self.calls += 1
        return self.dense(x) if keras.ops.max(x) > 0 else -self.dense(x)


def test_a_branch_on_values_trains_eagerly_as_keras_does():
    model, x = Branching(), np.eye(2, dtype="float32")
    model.compile(keras.optimizers.SGD(0.5), "mse", sam=keras_sam.SAM(0.5), run_eagerly=True)
    for _ in range(2):
        model.train_on_batch(x, np.zeros((2, 2)))
    # L = ‖w‖² / 4 with four equal weights, which ε̂ moves by 0.25 each: 1 − 0.5 · 1.25 / 2, and again.
    np.testing.assert_array_equal(model.dense.kernel.numpy(), np.full((2, 2), 0.453125))
    # Two build it, by shapes in vain and by the batch, and two are a step.
    assert model.calls == 6


def test_the_train_step_is_one_xla_program_of_static_shapes():
    """What TPUs ask for; with a schedule of ρ, loss scaling, dropout, and a rule that keeps a state."""
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.0])
    results = []
    for mode in ({"jit_compile": True}, {"run_eagerly": True}):
        keras.utils.set_random_seed(1)
        model = model_of(layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dropout(0.0), layers.Dense(2))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01))
        model.compile(optimizer, "mse", metrics=["mae"], sam=keras_sam.FriendlySAM(rho), **mode)
        # One step with ε̂, one without.
        logs = [model.train_on_batch(ROWS, TARGETS, return_dict=True) for _ in range(2)]
        results.append((logs, [v.numpy() for v in [*model.variables, *optimizer.variables]]))
        if "jit_compile" in mode:
            step = tf.function(model.train_step, jit_compile=True)
            batch = tf.constant(ROWS, "float32"), tf.constant(TARGETS, "float32")
            program = step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert program.count("HloModule") == program.count("ENTRY") == 1
    assert "conditional(" in program
    for leaves_the_device in ["infeed", "outfeed", "send(", "recv(", "custom-call", "<="]:
        assert leaves_the_device not in program
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)
    assert results[0][0][0]["sharpness"] > 0


def test_the_graph_of_a_step_is_two_gradients_one_update_and_three_ops_a_weight():
    """‖g‖ is a square and a sum a weight, w + ε̂ an addition, its multiplication a part of the update not done twice."""
    counts = []
    for rule in (None, keras_sam.SAM(0.05)):
        inputs = keras.Input((6, 6, 2))
        x = layers.BatchNormalization()(layers.Conv2D(3, 3, activation="relu")(inputs))
        model = keras_sam.SAMModel(inputs, layers.Dense(2)(layers.Flatten()(x)))
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", sam=rule)
        step = tf.function(lambda x, y: model.train_step((x, y)))  # noqa: B023, traced at once
        nodes = step.get_concrete_function(tf.zeros((4, 6, 6, 2)), tf.zeros((4, 2))).graph.as_graph_def().node
        counts.append(collections.Counter(node.op for node in nodes))
    plain, sam = counts
    num_weights = len(model.trainable_variables)
    for op in ("Conv2D", "Conv2DBackpropFilter", "MatMul", "Relu", "ReluGrad", "Rsqrt", "BiasAddGrad"):
        assert sam[op] == 2 * plain[op] > 0, op
    for op in ("AssignSubVariableOp", "AssignAddVariableOp", "ReadVariableOp"):
        assert sam[op] <= 1.5 * plain[op], op
    more = {op: n for op in sam if (n := sam[op] - 2 * plain[op]) > 2}
    # The scalars of ‖g‖, the loss and its metrics aside.
    assert set(more) == {"Square", "Sum", "AddV2"}
    np.testing.assert_allclose(list(more.values()), num_weights, atol=1)


def test_rows_that_occur_twice_in_a_sparse_gradient_are_added_up():
    """∇ ½ Σ over looked-up rows of w² is (2, 1, 0) at w = 1: a tape gives it as three slices, of norm √3."""
    embedding, looked_up = tf.ones((3, 1)), tf.constant([0, 0, 1])

    def value_and_grad(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(tf.gather(weights[0], looked_up) ** 2) / 2
        return loss, tape.gradient(loss, weights)

    assert isinstance(value_and_grad([embedding])[1][0], tf.IndexedSlices)
    rule = keras_sam.SAM(1.0)
    (gradient,), _ = rule.gradient(value_and_grad, [embedding], rule.step(0))
    expected = np.array([2, 1, 0]) * (1 + np.array([2, 1, 0]) / np.sqrt(5))
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-6)
