"""MirroredStrategy: each replica an ε̂ of its own, one average of SAM gradients."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers

import keras_sam


def data(rows=32):
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 3)), random.normal(size=(rows, 2))


def tanh_net(cls=keras_sam.SAMModel):
    l2 = keras.regularizers.L2(1 / 128)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer=l2)(inputs)
    return cls(inputs, layers.Dense(2, kernel_regularizer=l2)(hidden))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("replicas", "p"), [(2, 2), (2, 4), (4, 2)])
def test_each_replica_perturbs_by_its_own_gradient(mirrored, replicas, p):
    x, y = data()
    with mirrored(replicas).scope():
        model = tanh_net()
        loss = keras.losses.MeanSquaredError(dtype="float64")
        optimizer = keras.optimizers.SGD(0.125, momentum=0.75)
        model.compile(optimizer, loss, sam=keras_sam.SAM(rho=0.1, p=p))
    weights = [v.numpy() for v in model.trainable_variables]
    batches = list(zip(np.split(x, 4), np.split(y, 4)))
    shares = [(np.split(x_, replicas), np.split(y_, replicas)) for x_, y_ in batches]
    steps = [reference.train(weights, batches[:i], 0.125, 0.1, 0.75, replicas, p=p, decay=1 / 64) for i in range(5)]
    logs = [reference.sam_gradient(w, *xy, 0.1, p, 1 / 64)[:2] for w, s in zip(steps, shares) for xy in zip(*s)]

    history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history

    for variable, want in zip(model.trainable_variables, steps[-1]):
        np.testing.assert_allclose(variable.numpy(), want, rtol=1e-9, atol=1e-12)
        for copy in mirrored(replicas).experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy.numpy(), variable.numpy())
    np.testing.assert_allclose(history["loss"], [np.mean([loss for loss, _ in logs])], rtol=1e-6)
    np.testing.assert_allclose(history["sharpness"], [np.mean([sharpness for _, sharpness in logs])], rtol=1e-6)


def test_one_epsilon_for_the_whole_batch_would_be_another_step():
    """The test above tells the two apart: their gradients differ by far more than its tolerance."""
    x, y = data(8)
    weights = [np.random.default_rng(1).normal(size=s) for s in [(3, 4), (4,), (4, 2), (2,)]]
    (own,) = (reference.train(weights, [(x, y)], 0.1, 0.1, num_replicas=2)[:1],)
    (shared,) = (reference.train(weights, [(x, y)], 0.1, 0.1, num_replicas=1)[:1],)
    assert np.abs(own[0] - shared[0]).max() > 1e-5


RULES = {
    "micro-batches": ({"m": 2}, 2, {"m": 2}),
    "micro-batches that m does not divide": ({"m": 3, "ascent_fraction": 0.5}, 2, {"m": 3, "ascent_fraction": 0.5}),
    "ascent_steps": ({"ascent_steps": 2}, 2, {"ascent_steps": 2}),
    "global": ({"m": "global"}, 1, {}),
    "global, ascent_steps": ({"m": "global", "ascent_steps": 2, "p": 4}, 1, {"ascent_steps": 2, "p": 4}),
}


# A conditional around a loop, and around what all replicas have to reach.
SCHEDULED = ["micro-batches that m does not divide", "global, ascent_steps"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "scheduled"), [*((name, False) for name in RULES), *((name, True) for name in SCHEDULED)]
)
def test_every_share_of_the_batch_has_the_epsilon_that_m_says(mirrored, name, scheduled):
    """Two replicas; `m="global"` is the ε̂ of a single one that has the whole batch."""
    options, replicas, expected_options = RULES[name]
    x, y = data()
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.125, 0.0]) if scheduled else 0.125
    with mirrored(2).scope():
        model = tanh_net()
        loss = keras.losses.MeanSquaredError(dtype="float64")
        model.compile(keras.optimizers.SGD(0.125), loss, sam=keras_sam.SAM(rho, **options))
    expected = [v.numpy() for v in model.trainable_variables]
    batches = list(zip(np.split(x, 4), np.split(y, 4)))
    for i, batch in enumerate(batches):
        if i < 2 or not scheduled:
            expected = reference.train(expected, [batch], 0.125, 0.125, 0.0, replicas, decay=1 / 64, **expected_options)
        else:
            _, gradient = reference.loss_and_gradient(expected, *batch, 1 / 64)
            expected = [w - 0.125 * g for w, g in zip(expected, gradient)]
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, want in zip(model.trainable_variables, expected):
        np.testing.assert_allclose(variable.numpy(), want, rtol=1e-9, atol=1e-12)


def test_m_of_half_the_batch_on_one_device_is_two_replicas(mirrored):
    """Weights and BatchNormalization's statistics, over six steps."""
    x, y = (a.astype("float32") for a in data(48))

    def trained(scope, m):
        keras.utils.set_random_seed(1)
        with scope:
            inputs = keras.Input((3,))
            hidden = layers.BatchNormalization()(layers.Dense(8, "tanh", kernel_regularizer="l2")(inputs))
            model = keras_sam.SAMModel(inputs, layers.Dense(2)(hidden))
            model.compile(
                keras.optimizers.SGD(0.125, momentum=0.75), "mse", metrics=["mae"], sam=keras_sam.SAM(0.1, m=m)
            )
        return model, model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history

    (replicated, logs), (alone, logs_alone) = trained(mirrored(2).scope(), None), trained(contextlib.nullcontext(), 8)
    for got, want in zip(alone.variables, replicated.variables, strict=True):
        # Keras keeps the statistics of each replica to itself; their mean is what one device has.
        copies = [copy.numpy() for copy in mirrored(2).experimental_local_results(want.value)]
        np.testing.assert_allclose(got.numpy(), np.mean(copies, axis=0), rtol=1e-5, atol=1e-6, err_msg=want.path)
    for name in ("loss", "mae", "sharpness"):
        np.testing.assert_allclose(logs_alone[name], logs[name], rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_each_replica_and_micro_batch_draws_a_direction_of_its_own(mirrored):
    x, y = data(8)
    rule = keras_sam.RandomPerturbation(0.125, m=2, seed=1)
    with mirrored(2).scope():
        model = tanh_net()
        model.compile(keras.optimizers.SGD(1.0), keras.losses.MeanSquaredError(dtype="float64"), sam=rule)
    weights = [v.numpy() for v in model.trainable_variables]
    gradients, drawn = [], []
    for replica in range(2):
        for number in range(2):
            step = rule.step(0)._replace(share=replica * 2**20 + number)
            drawn.append([e.numpy() for e in rule.ascend(weights, weights, step)])
            rows = slice(4 * replica + 2 * number, 4 * replica + 2 * number + 2)
            perturbed = [w + e for w, e in zip(weights, drawn[-1])]
            gradients.append(reference.loss_and_gradient(perturbed, x[rows], y[rows], 1 / 64)[1])
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, w, *parts in zip(model.trainable_variables, weights, *gradients):
        np.testing.assert_allclose(variable.numpy(), w - np.mean(parts, axis=0), rtol=1e-9, atol=1e-12)
    flat = [np.concatenate([e.ravel() for e in epsilon]) / 0.125 for epsilon in drawn]
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-12)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.7  # of 26 numbers each


def stateful_net(cls):
    inputs = keras.Input((3,))
    x = layers.Dense(8, "relu", kernel_regularizer="l2")(inputs)
    x = layers.Dropout(0.3, seed=1)(layers.BatchNormalization()(x))
    return cls(inputs, layers.Dense(2)(x))


@functools.cache
def fitted(scope, cls, **options):
    """History and variables after two epochs on a dataset, with validation."""
    dataset = tf.data.Dataset.from_tensor_slices(tuple(a.astype("float32") for a in data(24))).batch(8)
    keras.utils.set_random_seed(1)
    with scope():
        model = stateful_net(cls)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    history = model.fit(dataset, epochs=2, validation_data=dataset, verbose=0).history
    return history, [v.numpy() for v in model.variables]


@pytest.mark.parametrize("sam", [None, keras_sam.SAM(rho=0.0)], ids=repr)
def test_without_sam_it_is_keras_to_the_bit(mirrored, sam):
    scope = mirrored(2).scope
    history, variables = fitted(scope, keras_sam.SAMModel, sam=sam)
    keras_history, keras_variables = fitted(scope, keras.Model)
    assert history == keras_history
    for got, want in zip(variables, keras_variables, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_schedule_skips_the_second_pass_on_every_replica(mirrored, replicas):
    """A conditional in replica context, BatchNormalization and Dropout in it; 24 steps, 12 of them with ε̂."""
    x, y = (a.astype("float32") for a in data(32))
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([11], [0.0, 0.1])
    with mirrored(replicas).scope():
        model = stateful_net(keras_sam.SAMModel)
        model.compile(keras.optimizers.SGD(0.05), "mse", sam=keras_sam.SAM(rho))
    history = model.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0).history
    assert history["sharpness"][:3] == [0.0] * 3
    assert min(history["sharpness"][3:]) > 0
    for variable in model.trainable_variables:
        for copy in mirrored(replicas).experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy.numpy(), variable.numpy())


@pytest.mark.parametrize("replicas", [2, 4])
def test_mixed_float16_trains_on_several_replicas(mirrored, replicas):
    x, y = (a.astype("float32") for a in data(32))
    with mirrored(replicas).scope():
        inputs = keras.Input((3,))
        hidden = layers.Dense(8, "tanh", dtype="mixed_float16")(inputs)
        model = keras_sam.SAMModel(inputs, layers.Dense(2, dtype="float32")(hidden))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, "mse")
    history = model.fit(x, y, batch_size=8, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert optimizer.iterations.numpy() == 12
