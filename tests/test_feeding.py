"""TensorFlow's batches feed every backend, with KerasCV's layers and without."""

import importlib

import keras
import numpy as np
import pytest
from conftest import required

tf = required("tensorflow")

from keras_sam.experiments.data import load  # noqa: E402
from keras_sam.experiments.data.layers import NAMES  # noqa: E402
from keras_sam.experiments.data.pipelines import evaluation, num_steps, pipeline  # noqa: E402


@pytest.mark.parametrize("augmentation", ["basic+cutout", "basic+cutmix"])
def test_every_backend_trains_on_batches(augmentation):
    """On the backend of this process; the global dtype policy is for networks alone."""
    data = load("svhn", stand_in=True, validation=0.25)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        batches = pipeline(data, 32, augmentation)
        one_hot = len(batches.element_spec[1].shape) == 2
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
        losses = keras.losses.CategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy
        model.compile("sgd", losses[0 if one_hot else 1](from_logits=True))
        steps = num_steps(data.train, 32)
        validation = evaluation(data, data.validation, 32, one_hot=one_hot)
        history = model.fit(
            batches, steps_per_epoch=steps, epochs=2, validation_data=validation, shuffle=False, verbose=0
        ).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(model.optimizer.iterations) == 2 * steps == 6
    assert np.isfinite(history["loss"] + history["val_loss"]).all()


@pytest.mark.parametrize("library", ["keras_cv", "keras"])
def test_layers_compute_in_tensorflow_on_every_backend(library):
    if library == "keras_cv":
        required(library)
    layers = importlib.import_module(f"keras_sam.experiments.data.layers.with_{library}")
    drawn = tf.constant([0.1, -0.2])

    @tf.function
    def made(images):
        return [
            layers.auto_contrast(images),
            layers.cutout(images, tf.constant([1, 9]), tf.constant([2, 8]), tf.constant([4, 6]), 0.0),
            layers.flip(images, drawn > 0),
            *(f(images, drawn) for f in (layers.color, layers.rotate, layers.sharpness, layers.solarize)),
            *(f(images, drawn, drawn) for f in (layers.shear, layers.translate)),
        ]

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = made(tf.random.stateless_uniform([2, 10, 12, 3], [0, 0], 0, 255))
    finally:
        keras.config.set_dtype_policy("float32")
    assert len(images) == len(NAMES)
    assert all(isinstance(i, tf.Tensor) and i.dtype == "float32" and i.shape == (2, 10, 12, 3) for i in images)
