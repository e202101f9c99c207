"""What the callbacks log of a softmax regression, against NumPy."""

import keras
import numpy as np
import pytest
from conftest import BACKEND

import keras_sam
from keras_sam.callbacks import NAMES, InnerMaximization, SharpnessLogger, inner_maximization
from keras_sam.sharpness.objective import Objective

RHO, DECAY = 2.0, 0.01
# Keras multiplies float64 matrices in float32 on the other backends.
RTOL = 1e-6 if BACKEND == "tensorflow" else 1e-5
RANDOM = np.random.default_rng(0)
X, W = RANDOM.normal(size=(10, 4)), RANDOM.normal(size=(4, 3))
Y = RANDOM.integers(0, 3, 10)


def loss(w, x, y):
    logits = x @ w
    log_likelihood = logits[np.arange(len(y)), y] - np.log(np.exp(logits).sum(-1))
    return -log_likelihood.mean() + DECAY / 2 * np.sum(w**2)


def gradient(w, x, y):
    p = np.exp(x @ w)
    p /= p.sum(-1, keepdims=True)
    return x.T @ (p - np.eye(3)[y]) / len(y) + DECAY * w


def perturbed(w, x, y):
    g = gradient(w, x, y)
    return w + RHO * g / np.sqrt(np.sum(g**2))


def error(w, x, y):
    return np.mean(np.argmax(x @ w, -1) != y)


def model(rule):
    inputs = keras.Input((4,))
    net = keras_sam.SAMModel(inputs, keras.layers.Dense(3, use_bias=False)(inputs))
    net.trainable_variables[0].assign(W)
    net.trainable_variables[0].regularizer = keras.regularizers.L2(DECAY / 2)
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], sam=rule)
    return net


def found(rule, m=None):
    return inner_maximization(Objective(model(rule), (X, Y), 10, training=True), rule, m)


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.usefixtures("float64")
def test_sharpness_of_the_error_and_of_the_loss(m):
    parts = [(X, Y)] if m is None else [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]

    def mean(function):
        return sum(len(y) / 10 * function(x, y) for x, y in parts)

    there = mean(lambda x, y: error(perturbed(W, x, y), x, y))
    rise = mean(lambda x, y: loss(perturbed(W, x, y), x, y) - loss(W, x, y))
    assert found(keras_sam.SAM(RHO), m) == {
        "perturbed_error": pytest.approx(there, abs=1e-7),
        "sharpness_of_error": pytest.approx(there - mean(lambda x, y: error(W, x, y)), abs=1e-7),
        "sharpness_of_loss": pytest.approx(rise, rel=RTOL),
    }


@pytest.mark.usefixtures("float64")
def test_each_step_of_ascent():
    one, two = found(keras_sam.SAM(RHO)), found(keras_sam.SAM(RHO, ascent_steps=2))
    assert {name: two[f"{name}_1"] for name in one} == one
    g = gradient(perturbed(W, X, Y), X, Y)
    epsilon = perturbed(W, X, Y) - W + RHO * g / np.sqrt(np.sum(g**2))
    epsilon *= min(1, RHO / np.sqrt(np.sum(epsilon**2)))
    assert two["sharpness_of_loss"] == pytest.approx(loss(W + epsilon, X, Y) - loss(W, X, Y), rel=RTOL)


@pytest.mark.usefixtures("float64")
def test_cosine_of_first_and_second_order():
    net = model(keras_sam.SAM(RHO))
    callback = InnerMaximization((X, Y), measures=("cosine",), batch_size=10)
    callback.set_model(net)
    callback.on_train_begin()
    logs = {}
    callback.on_epoch_end(0, logs)
    first = gradient(perturbed(W, X, Y), X, Y)
    # The gradient through ε̂(w), by differences.
    second, h = np.zeros_like(W), 1e-5
    for index in np.ndindex(*W.shape):
        step = np.zeros_like(W)
        step[index] = h
        second[index] = (loss(perturbed(W + step, X, Y), X, Y) - loss(perturbed(W - step, X, Y), X, Y)) / (2 * h)
    cosine = np.sum(first * second) / np.sqrt(np.sum(first**2) * np.sum(second**2))
    # Nearly 1 for so smooth a loss: what is left of 1 is what counts.
    assert 1 - cosine > 1e-4
    assert 1 - logs["cosine"] == pytest.approx(1 - cosine, rel=1e-3 if BACKEND == "tensorflow" else 2e-2)


@pytest.mark.usefixtures("float64")
def test_the_logger_finds_the_largest_eigenvalue():
    """Of a softmax regression the Hessian is known: the mean of x xᵀ ⊗ (diag p − p pᵀ), plus the decay."""
    net = model(keras_sam.SAM(RHO))
    logger, logs = SharpnessLogger((X, Y), every=2, rho=RHO, m=5, tolerance=1e-6), {}
    logger.set_model(net)
    logger.on_epoch_end(0, logs)
    assert np.isnan(logs["lambda_max"])
    assert np.isnan(logs["m_sharpness"])
    logger.on_epoch_end(1, logs)
    p = np.exp(X @ W)
    p /= p.sum(-1, keepdims=True)
    blocks = [np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(X, p)]
    assert logs["lambda_max"] == pytest.approx(np.linalg.eigvalsh(np.mean(blocks, 0))[-1] + DECAY, rel=RTOL)
    halves = [(X[:5], Y[:5]), (X[5:], Y[5:])]
    rise = np.mean([loss(perturbed(W, x, y), x, y) - loss(W, x, y) for x, y in halves])
    assert logs["m_sharpness"] == pytest.approx(rise, rel=RTOL)


def test_measured_each_epoch_and_nothing_changes(tmp_path):
    """The numbers reach History, and a CSVLogger that comes after."""
    rule = keras_sam.SAM(RHO, ascent_steps=2)
    x = X.astype("float32")
    plain, watched = model(rule), model(rule)
    plain.fit(x, Y, epochs=2, shuffle=False, verbose=0)
    callbacks = [
        InnerMaximization((x, Y), measures=("sharpness", "cosine")),
        SharpnessLogger((x, Y), every=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = watched.fit(x, Y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks).history
    assert {*NAMES, "sharpness_of_loss_1", "lambda_max", "m_sharpness"} <= set(history)
    assert all(len(values) == 2 for values in history.values())
    assert np.isfinite(history["lambda_max"]).tolist() == [False, True]
    header, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert {"lambda_max", "cosine"} <= set(header.split(","))
    assert len(lines) == 2
    for ours, theirs in zip(watched.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_diverged_is_logged_as_such():
    net = model(keras_sam.SAM(RHO))
    net.trainable_variables[0].assign(np.nan * W)
    logger, logs = SharpnessLogger((X.astype("float32"), Y), every=1), {}
    logger.set_model(net)
    logger.on_epoch_end(0, logs)
    assert np.isnan(logs["lambda_max"])


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="every=0"):
        SharpnessLogger((X, Y), every=0)
    with pytest.raises(ValueError, match="m=0"):
        SharpnessLogger((X, Y), m=0)
    with pytest.raises(ValueError, match="'curvature'"):
        InnerMaximization((X, Y), measures=("curvature",))
    for rule in (None, keras_sam.MSAM(), keras_sam.LookSAM()):
        callback = InnerMaximization((X, Y), rule)
        callback.set_model(keras.Sequential())
        with pytest.raises(ValueError, match="depends on the weights alone"):
            callback.on_train_begin()
