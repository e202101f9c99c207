"""What the callbacks log of a softmax regression, against NumPy."""

import warnings

import keras
import numpy as np
import pytest
from conftest import BACKEND, required

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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger.on_epoch_end(0, logs)
    assert not [w for w in caught if "lambda_max" in str(w.message)]  # nothing was looked for
    assert np.isnan([logs["lambda_max"], logs["m_sharpness"]]).all()
    logger.on_epoch_end(1, logs)
    p = np.exp(X @ W)
    p /= p.sum(-1, keepdims=True)
    blocks = [np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(X, p)]
    assert logs["lambda_max"] == pytest.approx(np.linalg.eigvalsh(np.mean(blocks, 0))[-1] + DECAY, rel=RTOL)
    halves = [(X[:5], Y[:5]), (X[5:], Y[5:])]
    rise = np.mean([loss(perturbed(W, x, y), x, y) - loss(W, x, y) for x, y in halves])
    assert logs["m_sharpness"] == pytest.approx(rise, rel=RTOL)


def test_the_logger_begins_where_it_ended_and_follows_the_model():
    """Of 33 weights, so that ARPACK looks for the eigenvalue; then with another loss, and with fewer weights."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(20, 10)).astype("float32"), random.integers(0, 3, 20)
    inputs = keras.Input((10,))
    net = keras_sam.SAMModel(inputs, keras.layers.Dense(3)(inputs))
    logger = SharpnessLogger((x, y), every=1, tolerance=1e-5)

    def largest(kernel, bias, trains_bias=True):
        p = np.exp(x @ kernel + bias)
        p /= p.sum(-1, keepdims=True)
        rows = np.concatenate([x, np.ones((20, 1))], 1) if trains_bias else x
        blocks = [np.kron(np.outer(r, r), np.diag(q) - np.outer(q, q)) for r, q in zip(rows, p)]
        return np.linalg.eigvalsh(np.mean(blocks, 0))[-1]

    for weight in (1.0, 1.0, 10.0):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(0.1), loss, loss_weights=weight)
        history = net.fit(x, y, epochs=2, callbacks=[logger], verbose=0).history
        assert history["lambda_max"][-1] == pytest.approx(weight * largest(*net.get_weights()), rel=1e-4)
    net.layers[1].bias.trainable = False
    net.compile(keras.optimizers.SGD(0.1), loss)
    history = net.fit(x, y, callbacks=[logger], verbose=0).history
    expected = largest(*net.get_weights(), trains_bias=False)
    assert history["lambda_max"] == [pytest.approx(expected, rel=1e-4)]


def test_training_goes_on_where_there_is_no_eigenvalue(recwarn):
    inputs = keras.Input((30,))
    net = keras_sam.SAMModel(inputs, keras.layers.Dense(1)(inputs))
    net.compile("sgd", lambda y, y_pred: keras.ops.mean(y_pred))
    x, y = np.ones((4, 30), "float32"), np.ones((4, 1), "float32")
    history = net.fit(x, y, callbacks=[SharpnessLogger((x, y), every=1)], verbose=0).history
    assert np.isnan(history["lambda_max"]).all()
    assert np.isfinite(history["m_sharpness"]).all()
    assert any("`lambda_max` was not found" in str(w.message) for w in recwarn.list)


def test_measured_each_epoch_and_nothing_changes(tmp_path):
    """The numbers reach History, a CSVLogger that comes after, and TensorBoard."""
    rule = keras_sam.SAM(RHO, ascent_steps=2)
    x = X.astype("float32")
    plain, watched = model(rule), model(rule)
    plain.fit(x, Y, epochs=2, shuffle=False, verbose=0)
    callbacks = [
        InnerMaximization((x, Y)),
        InnerMaximization((x, Y), keras_sam.SAM(RHO), measures=("cosine",)),
        SharpnessLogger((x, Y), every=2),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    if BACKEND == "tensorflow":
        required("tensorboard")
        callbacks.append(keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False))
    history = watched.fit(x, Y, epochs=2, shuffle=False, verbose=0, callbacks=callbacks).history
    assert {*NAMES, "sharpness_of_loss_1", "lambda_max", "m_sharpness"} <= set(history)
    assert all(len(values) == 2 for values in history.values())
    assert np.isfinite(history["lambda_max"]).tolist() == [False, True]
    header, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert {"lambda_max", "cosine"} <= set(header.split(","))
    assert len(lines) == 2
    if BACKEND == "tensorflow":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "board" / "train"))
        events.Reload()
        assert {"epoch_lambda_max", "epoch_cosine", "epoch_sharpness_of_loss_1"} <= set(events.Tags()["tensors"])
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
    with pytest.raises(ValueError, match="every=None"):
        SharpnessLogger((X, Y), every=None)
    with pytest.raises(ValueError, match="'curvature'"):
        InnerMaximization((X, Y), measures=("curvature",))
    with pytest.raises(ValueError, match=r"expected a tuple of names: `\('cosine',\)`"):
        InnerMaximization((X, Y), measures="cosine")
    for callback in (SharpnessLogger, InnerMaximization):
        for size in (0, 2.5, None):
            with pytest.raises(ValueError, match=f"batch_size={size}"):
                callback((X, Y), batch_size=size)
        for data, message in [(iter([(X, Y)]), "what can be read again"), ((X[:0], Y[:0]), "holds no examples")]:
            with pytest.raises(ValueError, match=message):
                callback(data)
    for rule in (None, keras_sam.MSAM(), keras_sam.LookSAM()):
        callback = InnerMaximization((X, Y), rule)
        callback.set_model(keras.Sequential())
        with pytest.raises(ValueError, match="depends on the weights alone"):
            callback.on_train_begin()
    for rule in (keras_sam.ASAM(), keras_sam.SAM(p=np.inf), keras_sam.SAM(ascent_steps=2)):
        callback = InnerMaximization((X, Y), rule, measures=("cosine",))
        callback.set_model(keras.Sequential())
        with pytest.raises(ValueError, match="gradient of second order"):
            callback.on_train_begin()
