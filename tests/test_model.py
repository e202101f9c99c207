"""`SAMModel` in `fit`: against NumPy, against Keras, and against perturbing the variables in place."""

import functools
import math

import keras
import numpy as np
import oracle
import pytest
import reference
from conftest import BACKEND
from keras import layers, ops
from oracle import to_numpy

import keras_sam

SCHEDULES = keras.optimizers.schedules
DECAY = 1 / 64
# Keras multiplies float64 matrices in float32 on JAX and torch.
FLOAT64 = {"rtol": 1e-9, "atol": 1e-12} if BACKEND == "tensorflow" else {"rtol": 1e-6, "atol": 1e-7}


def data(rows=32, columns=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, columns)), random.normal(size=(rows, 2))


def tanh_net(cls=keras_sam.SAMModel):
    """The net of reference.py, in float64."""
    l2 = keras.regularizers.L2(DECAY / 2)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer=l2)(inputs)
    return cls(inputs, layers.Dense(2, kernel_regularizer=l2)(hidden))


def weights_of(model):
    return [to_numpy(v) for v in model.trainable_variables]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_training_equals_algorithm_1_in_numpy(p, steps):
    x, y = data()
    model = tanh_net()
    # Keras keeps these by way of float32, which binary fractions survive.
    optimizer = keras.optimizers.SGD(0.125, momentum=0.75)
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype="float64"), sam=keras_sam.SAM(rho=0.1, p=p))
    batches = list(oracle.batches(x, y, 8, steps))
    expected = reference.train(weights_of(model), batches, 0.125, 0.1, momentum=0.75, p=p, decay=DECAY)
    for batch in batches:
        model.train_on_batch(*batch)
    for got, want in zip(weights_of(model), expected):
        np.testing.assert_allclose(got, want, **FLOAT64)


@pytest.mark.usefixtures("float64")
def test_the_logs_are_the_clean_loss_and_the_sharpness():
    x, y = data()
    model = tanh_net()
    model.compile("sgd", keras.losses.MeanSquaredError(dtype="float64"), metrics=["mae"], sam=keras_sam.SAM(rho=0.1))
    loss, sharpness, _ = reference.sam_gradient(weights_of(model), x, y, 0.1, decay=DECAY)
    mae = np.abs(model.predict(x, verbose=0) - y).mean()
    logs = model.train_on_batch(x, y, return_dict=True)
    assert set(logs) == {"loss", "mae", "sharpness"}
    np.testing.assert_allclose([logs["loss"], logs["sharpness"], logs["mae"]], [loss, sharpness, mae], rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_logs_of_an_epoch_are_means_over_examples():
    """Batches of 12, 12 and 8: the last one, which is smaller, counts less."""
    x, y = data()
    model = tanh_net()
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError(dtype="float64"), sam=keras_sam.SAM(0.1))
    weights, total, total_sharpness = weights_of(model), 0.0, 0.0
    for rows in np.split(np.arange(32), [12, 24]):
        loss, sharpness, gradient = reference.sam_gradient(weights, x[rows], y[rows], 0.1, decay=DECAY)
        weights = [w - 0.1 * g for w, g in zip(weights, gradient)]
        total, total_sharpness = total + len(rows) * loss, total_sharpness + len(rows) * sharpness
    history = model.fit(x, y, batch_size=12, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [total / 32], rtol=1e-6)
    np.testing.assert_allclose(history["sharpness"], [total_sharpness / 32], rtol=1e-6)


def conv_net(cls):
    """BatchNormalization, Dropout, a regularizer and `add_loss` in one."""

    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(0.01 * ops.mean(x**2))
            return x

    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, kernel_regularizer="l2", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = Penalty()(layers.Dropout(0.3)(x))
    return cls(inputs, layers.Dense(5)(layers.Flatten()(x)))


def text_net(cls):
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True)(inputs)
    x = layers.LSTM(4, recurrent_dropout=0.3, dropout=0.2)(x)
    return cls(inputs, layers.Dense(1)(x))


def embedding_net(cls):
    """An embedding alone in front of the loss: its gradient is sparse, with rows that repeat."""
    inputs = keras.Input((7,), dtype="int32")
    return cls(inputs, ops.mean(layers.Embedding(20, 3)(inputs), axis=(1, 2))[:, None])


def two_outputs(cls):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = layers.Dense(4, "tanh", activity_regularizer="l2")(layers.Concatenate()([a, b]))
    return cls({"a": a, "b": b}, {"c": layers.Dense(1, name="c")(x), "d": layers.Dense(2, name="d")(x)})


def partly_frozen(cls):
    inputs = keras.Input((3,))
    frozen = layers.Dense(4, trainable=False)
    return cls(inputs, layers.Dense(2)(layers.BatchNormalization()(frozen(inputs))))


def with_unused_output(cls):
    """Two losses are possible and one is given: the other head has no gradient."""
    inputs = keras.Input((3,))
    x = layers.Dense(4, "relu")(inputs)
    return cls(inputs, [layers.Dense(2)(x), layers.Dense(1)(x)])


def lora_net(cls):
    inputs = keras.Input((3,))
    dense = layers.Dense(4, "tanh")
    x = dense(inputs)
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(0.1 * np.ones(dense.lora_kernel_b.shape))
    return cls(inputs, layers.Dense(2)(x))


def group_norm_net(cls):
    inputs = keras.Input((6, 6, 3))
    x = layers.SeparableConv2D(4, 3, depthwise_regularizer="l1")(inputs)
    x = layers.GroupNormalization(2)(x)
    return cls(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def images():
    random = np.random.default_rng(0)
    return random.normal(size=(24, 6, 6, 3)).astype("float32"), random.integers(0, 5, 24)


def words():
    random = np.random.default_rng(0)
    return random.integers(0, 20, (24, 7)), random.normal(size=(24, 1)).astype("float32")


def table():
    x, y = data(24)
    return x.astype("float32"), y.astype("float32")


def two_tables():
    x, y = table()
    return {"a": x, "b": y}, {"c": x[:, :1], "d": y}


CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NETS = {
    "conv": (conv_net, images, {"loss": CROSSENTROPY}),
    "text": (text_net, words, {"loss": "mse"}),
    "embedding": (embedding_net, words, {"loss": "mse"}),
    "dict inputs, two losses": (
        two_outputs,
        two_tables,
        {"loss": {"c": "mse", "d": "mae"}, "loss_weights": {"c": 2.0, "d": 0.5}},
    ),
    "frozen": (partly_frozen, table, {"loss": "mse"}),
    "no gradient": (with_unused_output, lambda: (table()[0], [table()[1]] * 2), {"loss": ["mse", None]}),
    "lora": (lora_net, table, {"loss": "mse"}),
    "separable": (group_norm_net, images, {"loss": CROSSENTROPY}),
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "clipping": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.3),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.5),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}
# JAX compiles unless it is told not to, which the conformance table does; torch.compile has a test of its own.
MODES = [{}, {"run_eagerly": True}, {"jit_compile": True}] if BACKEND == "tensorflow" else [{}]
CASES = [(net, "sgd") for net in NETS] + [("conv", optimizer) for optimizer in OPTIMIZERS if optimizer != "sgd"]


def made(build, cls, compile_options, optimizer="sgd", **options):
    keras.utils.set_random_seed(3)
    model = build(cls)
    model.compile(OPTIMIZERS[optimizer](), **compile_options, **options)
    return model


def seed(step):
    """Dropout without a seed asks torch's global generator, on which the model and its oracle take turns."""
    if BACKEND == "torch":
        keras.utils.set_random_seed(step)


def assert_same_variables(model, expected, **tolerance):
    for got, want in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), err_msg=got.path, **tolerance)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("options", MODES, ids=str)
@pytest.mark.parametrize(("net", "optimizer"), CASES)
def test_three_steps_equal_perturbing_in_place(net, optimizer, options):
    """Weights, BatchNormalization statistics and seeds, so that masks and batch statistics were the same as well."""
    build, load, compile_options = NETS[net]
    model = made(build, keras_sam.SAMModel, compile_options, optimizer, sam=keras_sam.SAM(rho=0.1), **options)
    expected = made(build, keras.Model, compile_options, optimizer)
    for step, (x, y) in enumerate(oracle.batches(*load(), 8, 3)):
        seed(step)
        loss, perturbed = oracle.train_on_batch(expected, x, y, rho=0.1, jit_compile=options.get("jit_compile"))
        seed(step)
        model.reset_metrics()
        logs = model.train_on_batch(x, y, return_dict=True)
        np.testing.assert_allclose(logs["loss"], loss, rtol=2e-4)
        np.testing.assert_allclose(logs["sharpness"], perturbed - loss, rtol=2e-2, atol=2e-5)
    assert_same_variables(model, expected, rtol=2e-3, atol=2e-5)


def test_sample_weights_weigh_both_passes():
    x, y = table()
    sample_weight = np.linspace(0, 2, 24).astype("float32")
    model = made(partly_frozen, keras_sam.SAMModel, {"loss": "mse"}, sam=keras_sam.SAM(rho=0.1))
    expected = made(partly_frozen, keras.Model, {"loss": "mse"})
    loss, _ = oracle.train_on_batch(expected, x, y, sample_weight, rho=0.1)
    np.testing.assert_allclose(model.train_on_batch(x, y, sample_weight)[0], loss, rtol=1e-5)
    assert_same_variables(model, expected, rtol=1e-4, atol=1e-6)


def test_class_weights_are_sample_weights():
    x, y = images()
    class_weight = {0: 0.5, 1: 2.0, 2: 1.0, 3: 0.0, 4: 1.5}
    model = made(conv_net, keras_sam.SAMModel, {"loss": CROSSENTROPY})
    expected = made(conv_net, keras_sam.SAMModel, {"loss": CROSSENTROPY})
    seed(0)
    model.fit(x, y, batch_size=8, class_weight=class_weight, shuffle=False, verbose=0)
    weight = np.vectorize(class_weight.get)(y)
    seed(0)
    expected.fit(x, y, batch_size=8, sample_weight=weight, shuffle=False, verbose=0)
    assert_same_variables(model, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
@pytest.mark.parametrize("net", ["separable" if BACKEND == "torch" else "conv", "embedding", "no gradient"])
def test_a_schedule_gives_the_numbers_of_its_values(net, jit_compile):
    """0.1 for two steps, then 0 for two: the skipped pass changes no number, nor the mean sharpness."""
    build, load, compile_options = NETS[net]
    rho = SCHEDULES.PiecewiseConstantDecay([1], [0.1, 0.0])
    model = made(build, keras_sam.SAMModel, compile_options, sam=keras_sam.SAM(rho), jit_compile=jit_compile)
    expected = made(build, keras.Model, compile_options)
    sharpness = []
    for i, (x, y) in enumerate(oracle.batches(*load(), 6, 4)):
        loss, perturbed = oracle.train_on_batch(
            expected, x, y, rho=0.1 if i < 2 else 0.0, jit_compile=jit_compile is True
        )
        sharpness.append(perturbed - loss)
    history = model.fit(*load(), batch_size=6, shuffle=False, verbose=0).history
    assert_same_variables(model, expected, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(history["sharpness"], [np.mean(sharpness[:2])], rtol=2e-2, atol=2e-5)


@pytest.mark.parametrize("sam", [None, keras_sam.SAM(rho=0), keras_sam.SAM(rho=0.0)], ids=repr)
def test_without_sam_it_is_keras_to_the_bit(sam):
    x, y = images()
    options = {"loss": CROSSENTROPY, "metrics": ["accuracy"]}
    fit = {"batch_size": 8, "epochs": 3, "verbose": 0, "validation_split": 0.2}
    model, expected = made(conv_net, keras_sam.SAMModel, options, sam=sam), made(conv_net, keras.Model, options)
    keras.utils.set_random_seed(5)
    history = model.fit(x, y, **fit).history
    keras.utils.set_random_seed(5)
    assert history == expected.fit(x, y, **fit).history
    assert_same_variables(model, expected, rtol=0, atol=0)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch")
def test_steps_per_execution_gives_the_numbers_of_single_steps():
    x, y = images()
    single, several = (
        made(conv_net, keras_sam.SAMModel, {"loss": CROSSENTROPY}, steps_per_execution=n) for n in (1, 3)
    )
    fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    history = single.fit(x, y, **fit).history
    np.testing.assert_allclose(several.fit(x, y, **fit).history["loss"], history["loss"], rtol=1e-6)
    assert_same_variables(several, single, rtol=1e-5, atol=1e-7)


def test_validation_logs_have_no_sharpness():
    x, y = images()
    model = made(conv_net, keras_sam.SAMModel, {"loss": CROSSENTROPY, "metrics": ["accuracy"]})
    history = model.fit(x, y, validation_data=(x, y), verbose=0, epochs=2).history
    assert set(history) == {"loss", "accuracy", "sharpness", "val_loss", "val_accuracy"}
    assert set(model.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "accuracy"}
    assert len(model.evaluate(x, y, verbose=0)) == 2
    assert set(model.test_on_batch(x, y, return_dict=True)) == {"loss", "accuracy"}
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics", "sharpness"]


def test_a_ragged_last_batch_is_traced_once_and_no_step_again():
    calls = []

    class Counting(layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x

    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, layers.Dense(2)(Counting()(inputs)))
    model.compile("sgd", "mse")
    x, y = table()
    model.fit(x, y, batch_size=8, verbose=0)
    calls.clear()
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    assert len(calls) == {"tensorflow": 0, "jax": 0, "torch": 2 * 3 * 3}[BACKEND]
    calls.clear()
    model.fit(x, y, batch_size=7, epochs=3, verbose=0)
    # Two passes of a trace: TensorFlow has one for a batch of any size, JAX one a size, and torch runs every batch.
    assert len(calls) == {"tensorflow": 2, "jax": 4, "torch": 2 * 4 * 3}[BACKEND]


def test_nan_data_does_what_keras_does():
    x, y = table()
    x[3] = np.nan
    model = made(partly_frozen, keras_sam.SAMModel, {"loss": "mse"})
    expected = made(partly_frozen, keras.Model, {"loss": "mse"})
    model.fit(x, y, verbose=0)
    expected.fit(x, y, verbose=0)
    for got, want in zip(weights_of(model), weights_of(expected)):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


def test_an_error_between_the_passes_leaves_clean_weights():
    class Fails(layers.Layer):
        def call(self, x, training=False):
            if training and not keras_sam.in_ascent():
                raise RuntimeError("in the second pass")
            return x

    x, y = table()
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, layers.Dense(2)(Fails()(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    before = weights_of(model)
    # On JAX a first step that fails inside `fit` leaves a plain model without values as well.
    train = model.train_on_batch if BACKEND == "jax" else functools.partial(model.fit, verbose=0)
    with pytest.raises(RuntimeError, match="in the second pass"):
        train(x, y)
    for got, want in zip(weights_of(model), before):
        np.testing.assert_array_equal(got, want)
