"""What the experiments record of a softmax regression, against NumPy."""

import keras
import numpy as np
import pytest

import keras_sam
from keras_sam.experiments import measures

RHO, DECAY = 2.0, 0.01
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


@pytest.mark.parametrize("m", [None, 4])
@pytest.mark.usefixtures("float64")
def test_sharpness_of_the_error_and_of_the_loss(m):
    rule = keras_sam.SAM(RHO, m=m)
    found = measures.over_micro_batches(measures.sharpness, model(rule), rule, [(X, Y)])
    parts = [(X, Y)] if m is None else [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]

    def mean(function):
        return sum(len(y) / 10 * function(x, y) for x, y in parts)

    there = mean(lambda x, y: error(perturbed(W, x, y), x, y))
    assert found == {
        "perturbed_error": pytest.approx(there, abs=1e-7),
        "sharpness_of_error": pytest.approx(there - mean(lambda x, y: error(W, x, y)), abs=1e-7),
        "sharpness_of_loss": pytest.approx(mean(lambda x, y: loss(perturbed(W, x, y), x, y) - loss(W, x, y)), rel=1e-6),
    }


@pytest.mark.usefixtures("float64")
def test_several_steps_of_ascent_find_what_the_rule_finds():
    rule = keras_sam.SAM(RHO, ascent_steps=2)
    found = measures.over_micro_batches(measures.sharpness, model(rule), rule, [(X, Y)])
    g = gradient(perturbed(W, X, Y), X, Y)
    epsilon = perturbed(W, X, Y) - W + RHO * g / np.sqrt(np.sum(g**2))
    epsilon *= min(1, RHO / np.sqrt(np.sum(epsilon**2)))
    assert found["sharpness_of_loss"] == pytest.approx(loss(W + epsilon, X, Y) - loss(W, X, Y), rel=1e-6)


@pytest.mark.usefixtures("float64")
def test_cosine_of_first_and_second_order():
    rule = keras_sam.SAM(RHO)
    found = measures.over_micro_batches(measures.cosine, model(rule), rule, [(X, Y)])
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
    assert 1 - found["cosine"] == pytest.approx(1 - cosine, rel=1e-3)


def test_measured_each_epoch_and_nothing_changes():
    rule = keras_sam.SAM(RHO)
    x = X.astype("float32")
    plain, watched = model(rule), model(rule)
    plain.fit(x, Y, epochs=2, shuffle=False, verbose=0)
    callback = measures.Measures(("sharpness", "cosine"), rule, [(x, Y)])
    history = watched.fit(x, Y, epochs=2, shuffle=False, verbose=0, callbacks=[callback]).history
    assert set(measures.NAMES) <= set(history)
    assert all(len(history[name]) == 2 for name in measures.NAMES)
    for ours, theirs in zip(watched.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
