"""`m` and `ascent_fraction` in `fit`: section 4.1 inside one batch, with everything that a batch can hold."""

import contextlib

import keras
import nets
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers, ops
from nets import EAGERLY, conv_net, images, partly_frozen, table, two_outputs, two_tables
from oracle import to_numpy, values_of

import keras_sam
from keras_sam.backend.micro_batches import share_of

SAM = keras_sam.SAM


def made(build, rule, loss="mse", **options):
    keras.utils.set_random_seed(3)
    model = build(keras_sam.SAMModel)
    # At rate 1 and without momentum the weights move by the gradient.
    model.compile(keras.optimizers.SGD(1.0), loss, sam=rule, **options)
    return model


def cut(structure, start, stop):
    return keras.tree.map_structure(lambda a: a[start:stop], structure)


def assert_equals_the_mean_of_its_parts(build, x, y, m, sample_weight=None, loss="mse", **rule_options):
    """One step with `m` moves each variable by the mean of the moves that the parts alone make from the same start."""
    size = len(keras.tree.flatten(y)[0])
    whole = made(build, SAM(0.1, m=m, **rule_options), loss)
    part = made(build, SAM(0.1, **rule_options), loss, **EAGERLY)
    before = values_of(whole.variables)
    moves, losses = [np.zeros_like(b) for b in before], []
    for start in range(0, size, m):
        # The optimizer has no state but its number of steps.
        for variable, value in zip(part.variables, before, strict=True):
            variable.assign(value)
        part.reset_metrics()
        rows = start, min(start + m, size)
        weights = None if sample_weight is None else cut(sample_weight, *rows)
        logs = part.train_on_batch(cut(x, *rows), cut(y, *rows), sample_weight=weights, return_dict=True)
        share = (rows[1] - rows[0]) / size
        losses.append((share * logs["loss"], share * logs["sharpness"]))
        moves = [move + share * (after - b) for move, after, b in zip(moves, values_of(part.variables), before)]
    logs = whole.train_on_batch(x, y, sample_weight=sample_weight, return_dict=True)
    np.testing.assert_allclose([logs["loss"], logs["sharpness"]], np.sum(losses, axis=0), rtol=1e-3, atol=1e-5)
    for variable, b, move in zip(whole.variables, before, moves):
        if "seed" not in variable.path:
            np.testing.assert_allclose(to_numpy(variable) - b, move, rtol=1e-3, atol=2e-6, err_msg=variable.path)


@pytest.mark.parametrize(("m", "size"), [(1, 4), (5, 24)])
def test_dict_inputs_several_losses_and_sample_weights(m, size):
    x, y = cut(two_tables(), 0, size)
    weights = {"c": np.linspace(0, 2, size).astype("float32"), "d": np.linspace(1, 0, size).astype("float32")}
    assert_equals_the_mean_of_its_parts(two_outputs, x, y, m, weights, {"c": "mse", "d": "mae"})


@pytest.mark.parametrize("options", [{}, {"p": 1.5}, {"ascent_fraction": 0.5}, {"second_order": True}], ids=str)
def test_batch_normalization(options):
    assert_equals_the_mean_of_its_parts(partly_frozen, *table(), 7, **options)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_micro_batch_whose_sample_weights_are_all_0_gives_no_nan():
    weights = np.ones(24, "float32")
    weights[8:16] = 0
    assert_equals_the_mean_of_its_parts(partly_frozen, *table(), 8, weights)
    # What Keras averages over the weights themselves is 0 / 0 there, or nearly.
    model = made(partly_frozen, SAM(0.1, m=8), keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    logs = model.train_on_batch(*table(), sample_weight=weights, return_dict=True)
    assert np.isfinite([*logs.values()]).all()
    assert all(np.isfinite(v).all() for v in values_of(model.variables))


def test_all_sample_weights_0_in_the_whole_batch_gives_no_nan():
    model = made(partly_frozen, SAM(0.1))
    before = values_of(model.trainable_variables)
    model.train_on_batch(*table(), sample_weight=np.zeros(24, "float32"))
    for got, want in zip(values_of(model.trainable_variables), before):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("m", [24, 100])
def test_a_larger_m_than_the_batch_is_one_micro_batch(m):
    x, y = table()
    got, want = made(partly_frozen, SAM(0.1, m=m)), made(partly_frozen, SAM(0.1))
    for model in (got, want):
        model.train_on_batch(x, y)
    for g, w in zip(values_of(got.variables), values_of(want.variables)):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-7)


class Recorder(keras_sam.SAMModel):
    """Keeps the predictions of the pass at w."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        with contextlib.suppress(TypeError, ValueError):  # while Keras builds the metrics there are no values
            self.seen = [to_numpy(a) for a in (x, y, y_pred)]
        return super().compute_metrics(x, y, y_pred, sample_weight)


@pytest.mark.parametrize(("m", "fraction"), [(7, 1.0), (7, 0.5), (24, 0.25), (None, 0.25), (5, 0.01)])
def test_metrics_see_the_predictions_of_the_rows_that_chose_epsilon_in_their_order(m, fraction):
    x, y = table()
    inputs = keras.Input((3,))
    model = Recorder(inputs, layers.Dense(2)(inputs))
    model.compile("sgd", "mse", metrics=["mae"], sam=SAM(0.1, m=m, ascent_fraction=fraction), run_eagerly=True)
    parts = np.split(np.arange(24), range(m or 24, 24, m or 24))
    rows = np.concatenate([part[: max(1, int(fraction * len(part) + 0.5))] for part in parts])
    want = model.predict(x, verbose=0)[rows]
    logs = model.train_on_batch(x, y, return_dict=True)
    for got, expected in zip(model.seen, (x[rows], y[rows], want), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logs["mae"], np.abs(want - y[rows]).mean(), rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere every size is known")
def test_a_share_is_rounded_alike_whether_its_size_is_known_or_not():
    assert [share_of(m, fraction) for m, fraction in [(50, 0.29), (45, 0.7), (7, 0.5), (3, 0.01)]] == [15, 32, 4, 1]
    sizes = np.arange(1, 300, dtype="int32")
    for fraction in (number / 100 for number in range(1, 100)):
        known = [share_of(int(size), fraction) for size in sizes]
        np.testing.assert_array_equal(to_numpy(share_of(ops.convert_to_tensor(sizes), fraction)), known)


def test_dropout_draws_one_mask_a_micro_batch_for_both_passes():
    """On rows that are alike the predictions tell the masks apart; a tiny ρ tells whether both passes had the same."""
    x, y = np.ones((24, 40), "float32"), np.zeros((24, 40), "float32")
    inputs = keras.Input((40,))
    dropped = layers.Dropout(0.5, seed=1)(inputs)
    model = Recorder(inputs, layers.Dense(40, kernel_initializer="identity")(dropped))
    model.compile(keras.optimizers.SGD(0.0), "mse", sam=SAM(1e-6, m=8), run_eagerly=True)
    logs = model.train_on_batch(x, y, return_dict=True)
    first = model.seen[2].reshape(3, 8, 40) != 0
    assert abs(logs["sharpness"]) < 1e-4
    assert logs["loss"] > 1
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert 0.3 < (first[a] != first[b]).mean() < 0.7
    model.train_on_batch(x, y)
    assert ((model.seen[2].reshape(3, 8, 40) != 0) != first).mean() > 0.3


def test_a_metric_updated_in_call_counts_every_micro_batch():
    class Meter(layers.Layer):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean(name="input")

        def call(self, x, training=False):
            if training:
                self.mean.update_state(x)
            return x

    x, y = table()
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, layers.Dense(2)(Meter()(inputs)))
    model.compile("sgd", "mse", sam=SAM(0.1, m=7))
    logs = model.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["input"], x.mean(), rtol=1e-5)


def test_a_loss_that_adds_up_is_refused():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    message = r"averages over micro-batches, but SparseCategoricalCrossentropy adds up.*'sum_over_batch_size'.*`m=None`"
    with pytest.raises(ValueError, match=message):
        made(conv_net, SAM(0.1, m=4), loss)
    made(conv_net, SAM(0.1), loss)


class WithPenalty(keras_sam.SAMModel):
    """Its predictions are of rows and, as the KL divergence of an autoencoder or its weights, of none."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        y = self.dense(x)
        numbers = {"seven": ops.cast(ops.sum(ops.ones(7)), "int32"), "yes": ops.sum(ops.square(x)) > 0}
        return {
            "penalty": ops.mean(ops.square(y)),
            "y": y,
            "kernel": ops.convert_to_tensor(self.dense.kernel),
            **numbers,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y - y_pred["y"])) + 0.1 * y_pred["penalty"]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = {"penalty": y_pred["penalty"], "rows": ops.shape(y_pred["y"])[0], **self.get_metrics_result()}
        assert [keras.backend.standardize_dtype(y_pred[name].dtype) for name in ("seven", "yes")] == ["int32", "bool"]
        return {**logs, "kernel": ops.sum(y_pred["kernel"]), "seven": y_pred["seven"], "yes": y_pred["yes"]}


def test_predictions_without_rows_are_averaged():
    """Those that are floats."""
    x = np.random.default_rng(0).normal(size=(22, 3)).astype("float32")
    model = WithPenalty()
    model.build((None, 3))
    model.compile(keras.optimizers.SGD(0.0), sam=SAM(0.1, m=4))
    logs = model.train_on_batch(x, np.zeros((22, 2), "float32"), return_dict=True)
    assert (logs["rows"], logs["seven"], logs["yes"]) == (22, 7, True)
    np.testing.assert_allclose(logs["penalty"], np.mean(to_numpy(model(x)["y"]) ** 2), rtol=1e-6)
    # In batches whose size TensorFlow does not know.
    history = model.fit(x, np.zeros((22, 2), "float32"), batch_size=6, verbose=0).history
    np.testing.assert_allclose(history["kernel"], [np.sum(to_numpy(model.dense.kernel))], rtol=1e-6)


@pytest.mark.parametrize("m", [None, 4])
def test_a_prediction_may_be_none(m):
    """In a model that its first batch builds."""

    def trained(cls, y, loss):
        keras.utils.set_random_seed(0)
        model = cls()
        model.compile(keras.optimizers.SGD(0.1), loss, sam=SAM(0.1, m=m))
        history = model.fit(x, y, batch_size=10, shuffle=False, verbose=0).history
        return [history["loss"], history["sharpness"], *model.get_weights()]

    x, y = table()
    got, want = trained(nets.ReturnsMore, {"y": y}, {"y": "mse"}), trained(nets.ReturnsOne, y, "mse")
    for value, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("m", [2, 3])
def test_a_last_batch_of_no_more_rows_than_m_compiles(m):
    """10 rows in batches of 4, for which XLA compiles a loop of no rounds."""
    x, y = cut(table(), 0, 10)
    results = []
    for options in ({"jit_compile": BACKEND != "torch"}, EAGERLY):
        model = made(partly_frozen, SAM(0.1, m=m), metrics=["mae"], **options)
        model.optimizer.learning_rate = 0.1
        history = model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history
        results.append([*history["loss"], *history["mae"], *history["sharpness"], *values_of(model.variables)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, EAGERLY] if EAGERLY else [{}], ids=lambda o: "eager" if o else "as it is")
@pytest.mark.parametrize("m", [16, 24, 32, None])
def test_the_losses_of_single_outputs_are_logged_as_plain_keras_does(m, options):
    """Every batch has a loss of 5, its halves 1 and 9; the last is smaller."""
    values = [1] * 32 + [3] * 32 + [1] * 16 + [3] * 16
    x = np.array(values, "float32")[:, None]
    inputs = keras.Input((1,))
    outputs = {name: layers.Dense(1, kernel_initializer=name, name=name)(inputs) for name in ("ones", "zeros")}
    model = keras_sam.SAMModel(inputs, outputs)
    losses = dict.fromkeys(outputs, "mse")
    model.compile(keras.optimizers.SGD(0.0), losses, sam=SAM(1e-6, m=m), **options)
    logs = model.fit(x, dict.fromkeys(outputs, 0 * x), batch_size=64, shuffle=False, verbose=0).history
    np.testing.assert_allclose([logs["loss"], logs["ones_loss"], logs["zeros_loss"]], [[5], [5], [0]], rtol=1e-6)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_sums_over_many_micro_batches_have_more_digits_than_the_weights(policy):
    """600 times the same: a sum in bfloat16 stands still where its parts are below a 256th of it."""
    inputs = keras.Input((1,))
    model = keras_sam.SAMModel(inputs, layers.Dense(1, use_bias=False, dtype=policy, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.SGD(0.125), "mse", sam=SAM(1.0, m=1))
    model.train_on_batch(np.ones((600, 1), "float32"), np.zeros((600, 1), "float32"))
    # The gradient of w² is 4 at 1 + 1.
    assert float(to_numpy(model.trainable_variables[0]).astype("float32").item()) == 0.5


class Experts(keras_sam.SAMModel):
    """Two experts, each of which is called for its rows alone, and one that no row asks for."""

    def build(self, input_shape):
        self.experts = [self.add_weight(shape=(4, 2), initializer="ones", name=name) for name in "abc"]
        self.built = True

    def call(self, x):
        is_first, output = to_numpy(x[:, 0]) > 0, ops.zeros((len(x), 2))
        for expert, chosen in zip(self.experts, (is_first, ~is_first)):
            rows = np.flatnonzero(chosen).astype("int32")
            if len(rows):
                output = ops.scatter_update(output, rows[:, None], ops.take(x, rows, axis=0) @ expert)
        return output


@pytest.mark.skipif(BACKEND == "jax", reason="a layer cannot look at values there")
def test_weights_that_only_some_micro_batches_use_have_their_own_gradients():
    """Of the mean square of four rows' two outputs, the sums of the rows, the gradient is ¼ Σ over rows of sum · x."""
    x = np.ones((4, 4), "float32")
    x[2:] = [-1, 2, 2, 2]
    model = Experts()
    model.build((None, 4))
    model.compile(keras.optimizers.SGD(0.01), "mse", sam=SAM(1e-7, m=2), run_eagerly=True)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['[^,]*c'\]"):
        model.train_on_batch(x, np.zeros((4, 2), "float32"))
    a, b, c = (to_numpy(v)[:, 0] for v in model.experts)
    np.testing.assert_allclose(a, 1 - 0.01 * np.full(4, 2.0), rtol=1e-5)
    np.testing.assert_allclose(b, 1 - 0.01 * np.array([-2.5, 5, 5, 5]), rtol=1e-5)
    np.testing.assert_array_equal(c, np.ones(4))


@pytest.mark.skipif(BACKEND == "jax", reason="there a step is traced, and every micro-batch has the same updates")
def test_a_state_that_only_some_micro_batches_update_is_refused():
    class Sometimes(layers.Layer):
        def build(self, input_shape):
            self.seen = self.add_weight(shape=(), trainable=False, initializer="zeros", name="seen")

        def call(self, x):
            if float(ops.sum(x)) > 0:
                self.seen.assign(1.0)
            return x

    class Net(keras_sam.SAMModel):
        def build(self, input_shape):
            self.sometimes, self.dense, self.built = Sometimes(), layers.Dense(2), True
            self.sometimes.build(input_shape)
            self.dense.build(input_shape)

        def call(self, x):
            return self.dense(self.sometimes(x))

    model = Net()
    model.build((None, 3))
    model.compile("sgd", "mse", sam=SAM(0.1, m=2), run_eagerly=True)
    x = np.repeat([[1.0], [-1.0]], 2, axis=0) * np.ones((1, 3))
    with pytest.raises(ValueError, match=r"updates .*seen'\] for some micro-batches and not for others"):
        model.train_on_batch(x.astype("float32"), np.zeros((4, 2), "float32"))


def test_everything_in_one_net_trains():
    """Convolutions, BatchNormalization, Dropout, `add_loss` and a regularizer, a last batch that m does not divide."""
    x, y = images()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = made(conv_net, SAM(0.05, m=5), loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=11, epochs=2, verbose=0).history
    assert set(history) == {"loss", "accuracy", "sharpness"}
    assert np.isfinite([*history.values()]).all()


@pytest.mark.skipif(BACKEND != "jax", reason="XLA's own account of the memory")
def test_only_one_micro_batchs_activations_are_alive():
    import jax

    def wide(cls):
        inputs = keras.Input((16, 16, 3))
        x = inputs
        for _ in range(4):
            x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
        return cls(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))

    def temporary_bytes(m):
        model = made(wide, SAM(0.1, m=m))
        model.optimizer.build(model.trainable_variables)
        groups = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
        state = tuple([v.value for v in group] for group in (*groups, model.metrics_variables))
        batch = ops.ones((64, 16, 16, 3)), ops.ones((64, 2))
        step = jax.jit(model.train_step, donate_argnums=0)
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < 0.25 * temporary_bytes(None)
