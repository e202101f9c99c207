"""Fine-tuning with BatchNormalization's statistics frozen, while its scale and shift train."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import BACKEND, required
from keras import layers
from oracle import to_numpy

import keras_sam
from keras_sam.experiments.models.frozen_statistics import (
    FrozenBatchNormalization,
    freeze_statistics,
    thaw_statistics,
)

GAMMA, BETA, MEAN, VARIANCE = (np.array(v, "float32") for v in ([1.0, 2.0], [0.5, -0.5], [3.0, 1.0], [4.0, 0.25]))
X = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")


def normalized(x):
    return GAMMA * (x - MEAN) / np.sqrt(VARIANCE + 1e-3) + BETA


def model_of(cls=keras_sam.SAMModel):
    """BatchNormalization inside of a Functional model, inside of another one."""
    inner_inputs = keras.Input((2,))
    normalization = layers.BatchNormalization()
    inner = keras.Model(inner_inputs, normalization(inner_inputs))
    inputs = keras.Input((2,))
    model = cls(inputs, inner(inputs))
    normalization.set_weights([GAMMA, BETA, MEAN, VARIANCE])
    return model


def total(y_true, y_pred):
    return keras.ops.sum(y_pred, axis=-1)


@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_stay_and_scale_and_shift_train(compiled, tmp_path):
    """The loss is linear in gamma and beta, so that their gradients do not depend on ε."""
    model = model_of()
    if compiled:
        model.compile("sgd", total)
    frozen = freeze_statistics(model)
    assert isinstance(frozen, keras_sam.SAMModel)
    frozen.compile(keras.optimizers.SGD(0.1), total, sam=keras_sam.SAM(0.05))
    frozen.save(tmp_path / "model.keras")
    for trained in (frozen, keras.models.load_model(tmp_path / "model.keras", custom_objects={"total": total})):
        np.testing.assert_allclose(to_numpy(trained(X, training=True)), normalized(X), rtol=1e-5)
        trained.fit(X, np.zeros((6, 2)), batch_size=6, verbose=0)
        gamma, beta, mean, variance = trained.get_weights()
        np.testing.assert_array_equal([mean, variance], [MEAN, VARIANCE])
        slope = ((X - MEAN) / np.sqrt(VARIANCE + 1e-3)).mean(axis=0)
        np.testing.assert_allclose(gamma, GAMMA - 0.1 * slope, rtol=1e-5)
        np.testing.assert_allclose(beta, BETA - 0.1, rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights(), [GAMMA, BETA, MEAN, VARIANCE])


LOADED_BY_KERAS_ALONE = """
import sys
import keras
import numpy as np

model = keras.saving.load_model(sys.argv[1])
assert "keras_sam" not in sys.modules
np.save(sys.argv[2], model.predict(np.load(sys.argv[3]), verbose=0))

from keras_sam.experiments import analysis

analysis.load_model(sys.argv[4])
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="long for a process of its own")
def test_thawed_it_is_a_file_of_keras_alone(tmp_path):
    trained = freeze_statistics(model_of())
    trained.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(0.05))
    trained.fit(X, np.zeros((6, 2)), batch_size=6, verbose=0)
    thawed = thaw_statistics(trained)
    assert type(thawed.layers[-1].layers[-1]) is layers.BatchNormalization
    path, predicted, x, frozen = (tmp_path / name for name in ("thawed.keras", "y.npy", "x.npy", "frozen.keras"))
    thawed.save(path)
    trained.save(frozen)
    np.save(x, X)
    command = [sys.executable, "-c", LOADED_BY_KERAS_ALONE, *map(str, (path, predicted, x, frozen))]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(predicted), to_numpy(trained(X)), rtol=1e-6)
    # What was thawed goes on moving its statistics in training.
    thawed(X, training=True)
    assert np.abs(thawed.get_weights()[2] - MEAN).max() > 0.01
    np.testing.assert_array_equal(trained.get_weights()[2], MEAN)


def test_what_else_belongs_to_a_layer_is_kept():
    model = keras.Sequential([keras.Input((2,)), layers.Normalization(), layers.Dense(2), layers.BatchNormalization()])
    model.layers[0].adapt(3 * X + 1)
    model.layers[2].gamma.regularizer = keras.regularizers.L2(0.5)
    frozen = freeze_statistics(model)
    assert isinstance(frozen, keras.Model)
    assert not isinstance(frozen, keras_sam.SAMModel)
    assert (frozen.name, frozen.layers[-1].name) == (model.name, model.layers[-1].name)
    assert isinstance(frozen.layers[-1], FrozenBatchNormalization)
    # ½ Σ gamma² of two ones.
    np.testing.assert_allclose(to_numpy(frozen.losses[0]), 1.0)
    np.testing.assert_array_equal(to_numpy(frozen(X)), to_numpy(model(X)))
    assert frozen.trainable_variables[0] is model.trainable_variables[0]


def test_a_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"`mine`, a Subclassed that is subclassed or not built; expected a Func"):
        freeze_statistics(Subclassed(name="mine"))
    with pytest.raises(ValueError, match="`thaw_statistics` received `mine`"):
        thaw_statistics(Subclassed(name="mine"))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles a hundred operations one by one")
def test_a_network_of_keras_applications():
    source = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg")
    assert_same_in_training(source)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="imports TensorFlow")
def test_a_network_of_keras_cv():
    keras_cv = required("keras_cv")
    options = {"stackwise_filters": [8, 16], "stackwise_blocks": [1, 1], "stackwise_strides": [1, 2]}
    assert_same_in_training(keras_cv.models.ResNetBackbone(**options, include_rescaling=False, input_shape=(16, 16, 3)))


def assert_same_in_training(source):
    source.set_weights([w + 0.1 for w in source.get_weights()])
    frozen = freeze_statistics(source)
    x = np.random.default_rng(0).uniform(size=(2, *source.input_shape[1:])).astype("float32")
    expected = to_numpy(source(x, training=False))
    np.testing.assert_array_equal(to_numpy(frozen(x, training=True)), expected)
    assert np.abs(to_numpy(source(x, training=True)) - expected).max() > 0.1
