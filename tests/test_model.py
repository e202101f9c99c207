"""`SAMModel` in `fit`: against NumPy, against Keras, and against perturbing the variables in place."""

import functools
import math

import keras
import numpy as np
import oracle
import pytest
import reference
from conftest import BACKEND
from keras import layers
from nets import (
    CROSSENTROPY,
    DECAY,
    NETS,
    OPTIMIZERS,
    conv_net,
    data,
    images,
    partly_frozen,
    table,
    tanh_net,
    weights_of,
)
from oracle import to_numpy

import keras_sam

SCHEDULES = keras.optimizers.schedules
# Keras multiplies float64 matrices in float32 on JAX and torch.
FLOAT64 = {"rtol": 1e-9, "atol": 1e-12} if BACKEND == "tensorflow" else {"rtol": 1e-6, "atol": 1e-7}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_training_equals_algorithm_1_in_numpy(p, steps):
    x, y = data()
    model = tanh_net()
    # Keras keeps these by way of float32, which binary fractions survive.
    optimizer = keras.optimizers.SGD(0.125, momentum=0.75)
    model.compile(optimizer, keras.losses.MeanSquaredError(dtype="float64"), sam=keras_sam.SAM(rho=0.1, p=p))
    optimizer.build(model.trainable_variables)
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


# JAX compiles unless it is told not to, which the conformance table does; torch.compile has a test of its own.
MODES = [{}, {"run_eagerly": True}, {"jit_compile": True}] if BACKEND == "tensorflow" else [{}]
CASES = [(net, "sgd") for net in NETS] + [("frozen", optimizer) for optimizer in OPTIMIZERS if optimizer != "sgd"]


def made(build, cls, compile_options, optimizer="sgd", **options):
    keras.utils.set_random_seed(3)
    model = build(cls)
    model.compile(OPTIMIZERS[optimizer](), **compile_options, **options)
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    return model


def seed(step):
    """Dropout without a seed asks torch's global generator, on which the model and its oracle take turns."""
    if BACKEND == "torch":
        keras.utils.set_random_seed(step)


def assert_same_variables(model, expected, **tolerance):
    for got, want in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), err_msg=got.path, **tolerance)


@functools.cache
def perturbed_in_place(net, optimizer, jit_compile):
    """The model after three steps of the oracle, and their losses, for all modes that draw the same numbers."""
    build, load, compile_options = NETS[net]
    model, losses = made(build, keras.Model, compile_options, optimizer), []
    for step, (x, y) in enumerate(oracle.batches(*load(), 8, 3)):
        seed(step)
        losses.append(oracle.train_on_batch(model, x, y, rho=0.1, jit_compile=jit_compile))
    return model, losses


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("options", MODES, ids=str)
@pytest.mark.parametrize(("net", "optimizer"), CASES)
def test_three_steps_equal_perturbing_in_place(net, optimizer, options):
    """Weights, BatchNormalization statistics and seeds, so that masks and batch statistics were the same as well."""
    build, load, compile_options = NETS[net]
    model = made(build, keras_sam.SAMModel, compile_options, optimizer, sam=keras_sam.SAM(rho=0.1), **options)
    expected, losses = perturbed_in_place(net, optimizer, bool(options.get("jit_compile")))
    for step, (x, y) in enumerate(oracle.batches(*load(), 8, 3)):
        seed(step)
        model.reset_metrics()
        logs = model.train_on_batch(x, y, return_dict=True)
        loss, perturbed = losses[step]
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


@functools.cache
def fitted(cls, **options):
    """A net after three epochs on shuffled data, with validation, and its history."""
    model = made(conv_net, cls, {"loss": CROSSENTROPY, "metrics": ["accuracy"]}, **options)
    keras.utils.set_random_seed(5)
    return model, model.fit(*images(), batch_size=8, epochs=3, verbose=0, validation_split=0.2).history


# A radius of 0.0 is the conformance table's.
@pytest.mark.parametrize("sam", [None, keras_sam.SAM(rho=0)], ids=repr)
def test_without_sam_it_is_keras_to_the_bit(sam):
    (model, history), (expected, expected_history) = fitted(keras_sam.SAMModel, sam=sam), fitted(keras.Model)
    assert history == expected_history
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
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics"]


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
