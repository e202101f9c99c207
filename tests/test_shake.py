"""Shake-Shake and ShakeDrop: their factors forward and backward, in both passes of SAM and at test time."""

import contextlib

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers, ops
from oracle import to_numpy

import keras_sam
from keras_sam.experiments.models import shake
from keras_sam.rules.step import ascent


@pytest.fixture
def factors(monkeypatch):
    """Function that replaces the random numbers of Shake-Shake and ShakeDrop, one list an image."""

    def fix(*lists):
        def uniform(self, count, x):
            assert count == len(lists)
            return [ops.reshape(ops.convert_to_tensor(n, x.dtype), (-1, *(1 for _ in x.shape[1:]))) for n in lists]

        monkeypatch.setattr(shake.Shake, "uniform", uniform)

    return fix


A, B, C = (np.random.default_rng(i).normal(size=(2, 3)).astype("float32") for i in range(3))


def forward_and_gradient(layer, *branches, in_ascent):
    def value(tensors):
        y = layer(tensors if len(tensors) > 1 else tensors[0], training=True)
        return ops.sum(ops.multiply(y, C)), ops.stop_gradient(y)

    def evaluate():
        return keras_sam.backend.value_and_grad(value, has_aux=True)([ops.convert_to_tensor(b) for b in branches])

    with ascent() if in_ascent else contextlib.nullcontext():
        (_, y), gradient = evaluate()
    return to_numpy(y), [to_numpy(g) for g in gradient]


@pytest.mark.parametrize("in_ascent", [False, True])
def test_shake_shake_by_hand(factors, in_ascent):
    factors([0.25, 0.75], [0.5, 0.0])
    alpha = np.array([[0.25], [0.75]])
    beta = alpha if in_ascent else np.array([[0.5], [0.0]])
    y, (gradient_a, gradient_b) = forward_and_gradient(shake.ShakeShake(), A, B, in_ascent=in_ascent)
    np.testing.assert_allclose(y, alpha * A + (1 - alpha) * B, rtol=1e-5)
    np.testing.assert_allclose(gradient_a, beta * C, rtol=1e-6)
    np.testing.assert_allclose(gradient_b, (1 - beta) * C, rtol=1e-6)


@pytest.mark.parametrize("in_ascent", [False, True])
@pytest.mark.parametrize(
    ("drawn", "forward", "backward"),
    [(([0.1, 0.6], [0.1, 0.1], [0.3, 0.3]), (1, -0.8), (1, 0.3)), (([0.5, 0.4], [0.9, 0], [0, 0]), (0.8, 1), (0, 1))],
)
def test_shake_drop_by_hand(factors, in_ascent, drawn, forward, backward):
    factors(*drawn)
    forward, backward = np.array(forward)[:, None], np.array(forward if in_ascent else backward)[:, None]
    y, (gradient,) = forward_and_gradient(shake.ShakeDrop(0.5), A, in_ascent=in_ascent)
    np.testing.assert_allclose(y, forward * A, rtol=1e-5)
    np.testing.assert_allclose(gradient, backward * C, rtol=1e-5)


def test_at_test_time_both_are_their_expectation():
    np.testing.assert_array_equal(to_numpy(shake.ShakeShake()([A, B])), (A + B) / 2)
    np.testing.assert_array_equal(to_numpy(shake.ShakeDrop(0.75)(A)), np.float32(0.75) * A)
    ones, zeros = np.ones((20000, 1), "float32"), np.zeros((20000, 1), "float32")
    # Four standard errors of the mean.
    mixed = to_numpy(shake.ShakeShake(seed=0)([ones, zeros], training=True))
    np.testing.assert_allclose([mixed.mean(), mixed.var()], [1 / 2, 1 / 12], atol=0.0082)
    dropped = to_numpy(shake.ShakeDrop(0.75, seed=0)(ones, training=True))
    np.testing.assert_allclose([dropped.mean(), (dropped == 1).mean()], 0.75, atol=0.0152)


def test_every_image_has_its_own_factors_and_both_passes_draw_alike():
    layer = shake.ShakeShake(seed=3)
    ones, zeros = np.ones((4, 2, 2, 1), "float32"), np.zeros((4, 2, 2, 1), "float32")
    first = to_numpy(layer([ones, zeros], training=True))
    state = to_numpy(layer.seed_generator.state)
    assert len(np.unique(first)) == 4
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1, :1], first.shape))
    layer.seed_generator.state.assign([3, 0])
    with ascent():
        np.testing.assert_allclose(to_numpy(layer([ones, zeros], training=True)), first, rtol=1e-6)
    np.testing.assert_array_equal(to_numpy(layer.seed_generator.state), state)


# JAX always uses XLA; elsewhere `True` compiles a graph in other ways.
@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else ["auto"])
def test_a_sam_step_mixes_alike_in_the_ascent_alone(factors, jit_compile):
    """f = s w·x: the ascent differentiates s by its true value, the descent by beta in its place."""
    factors([0.9, 0.8], [0.1, 0.95], [0.7, 0.2])
    forward, backward = np.array([-0.8, 0.9]), np.array([0.7, 0.2])
    x, w = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([0.5, -0.3])
    ascent_gradient = (2 * forward**2 * (x @ w)) @ x / 2
    perturbed = w + 0.1 * ascent_gradient / np.linalg.norm(ascent_gradient)
    expected = w - 0.1 * (2 * forward * backward * (x @ perturbed)) @ x / 2
    inputs = keras.Input((2,))
    dense = layers.Dense(1, use_bias=False)
    model = keras_sam.SAMModel(inputs, shake.ShakeDrop(0.5)(dense(inputs)))
    dense.set_weights([w[:, None]])
    model.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(0.1), jit_compile=jit_compile)
    model.train_on_batch(x, np.zeros((2, 1)))
    np.testing.assert_allclose(to_numpy(dense.kernel)[:, 0], expected, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's random numbers of XLA")
def test_random_factors_compiled_by_xla():
    import tensorflow as tf

    layer = shake.ShakeDrop(0.75, seed=0)
    dropped = tf.function(lambda x: layer(x, training=True), jit_compile=True)(np.ones((20000, 1), "float32"))
    np.testing.assert_allclose([to_numpy(dropped).mean(), (to_numpy(dropped) == 1).mean()], 0.75, atol=0.0152)


def test_half_precision_stays_half():
    for layer, x in [(shake.ShakeShake(dtype="mixed_bfloat16"), [A, B]), (shake.ShakeDrop(0.5, dtype="bfloat16"), A)]:
        for training in (False, True):
            assert keras.backend.standardize_dtype(layer(x, training=training).dtype) == "bfloat16"
