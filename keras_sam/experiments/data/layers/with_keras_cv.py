"""Augmentations by KerasCV's layers."""

import functools

import keras_cv
import tensorflow as tf

# KerasCV's own rotation turns its images into tensors of the backend, which fails in tf.data on JAX and torch.
from keras_sam.experiments.data.layers.with_keras import GEOMETRY, rotate

__all__ = ["auto_contrast", "color", "cutout", "flip", "rotate", "sharpness", "shear", "solarize", "translate"]

RANGE = (0, 255)


@functools.cache
def layer(name, *args, **kwargs):
    """A KerasCV layer that computes in float32 whatever the global dtype policy is."""
    make = functools.partial(getattr(keras_cv.layers, name), *args, **kwargs, dtype="float32")
    with tf.init_scope():
        try:
            return make()
        except RuntimeError:
            # With TensorFlow's determinism on, somebody has to choose the generator that a layer asks for, even unused.
            tf.random.set_global_generator(tf.random.Generator.from_seed(0))
            return make()


def flip(images, flips):
    flips = tf.cast(flips, "float32")[:, None]
    transformations = {"flip_horizontals": flips, "flip_verticals": tf.zeros_like(flips)}
    return layer("RandomFlip", "horizontal").augment_images(images, transformations)


def cutout(images, center_y, center_x, side, fill):
    transformations = {
        "centers_x": center_x,
        "centers_y": center_y,
        "rectangles_height": side,
        "rectangles_width": side,
    }
    return layer("RandomCutout", 0.5, 0.5, fill_value=fill).augment_images(images, transformations)


def auto_contrast(images):
    return layer("AutoContrast", RANGE).augment_images(images)


def solarize(images, thresholds):
    transformations = {"additions": 0.0, "thresholds": thresholds[:, None, None, None]}
    return layer("Solarization", RANGE).augment_images(images, transformations)


def color(images, factors):
    return layer("RandomColorDegeneration", 0.5).augment_images(images, 1 - factors[:, None, None, None])


def sharpness(images, factors):
    return layer("RandomSharpness", 0.5, RANGE).augment_images(images, 1 - factors[:, None, None, None])


def shear(images, x, y):
    return layer("RandomShear", 0.1, 0.1, **GEOMETRY).augment_images(
        images, {"shear_x": x[:, None], "shear_y": y[:, None]}
    )


def translate(images, x, y):
    # In units of the image's size.
    transformations = {
        "width_translations": x[:, None] / images.shape[2],
        "height_translations": y[:, None] / images.shape[1],
    }
    return layer("RandomTranslation", 0.1, 0.1, **GEOMETRY).augment_images(images, transformations)
