"""Augmentations by core Keras layers; what they lack, or do otherwise than the papers, in a few lines of TensorFlow."""

import functools

import keras
import tensorflow as tf

# What comes in from outside an image, as in the reference implementation.
GREY = 128.0
GEOMETRY = {"interpolation": "nearest", "fill_mode": "constant", "fill_value": GREY}


@functools.cache
def layer(name, *args, **kwargs):
    """A Keras layer that computes in TensorFlow, as tf.data does whatever the backend, and in float32."""
    with tf.init_scope():
        made = getattr(keras.layers, name)(*args, **kwargs, dtype="float32")
    made.backend.set_backend("tensorflow")
    return made


def flip(images, flips):
    """Images mirrored from left to right where `flips` is true."""
    flips = flips[:, None, None, None]
    return layer("RandomFlip", "horizontal").transform_images(images, {"flips": flips})


def rectangles(images, center_y, center_x, height, width):
    """Masks `(images, height, width, 1)` that are true in a rectangle, cut off at the borders of the image."""

    def inside(center, extent, size):
        start = center - extent // 2
        pixels = tf.range(size)
        return (pixels >= start[:, None]) & (pixels < (start + extent)[:, None])

    rows = inside(center_y, height, images.shape[1])
    columns = inside(center_x, width, images.shape[2])
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def cutout(images, center_y, center_x, side, fill):
    """Images with a square filled, that may reach over the border: Keras's RandomErasing keeps its boxes inside."""
    return tf.where(rectangles(images, center_y, center_x, side, side), fill, images)


def auto_contrast(images):
    """The lowest value of each channel becomes 0, the highest 255."""
    return layer("AutoContrast").transform_images(images)


def solarize(images, thresholds):
    """Values from the threshold on are inverted."""
    transformation = {"additions": 0.0, "thresholds": thresholds[:, None, None, None]}
    return layer("Solarization").transform_images(images, transformation)


def color(images, factors):
    """Grey at 0, unchanged at 1, more colourful above."""
    transformation = {"factor": 1 - factors[:, None, None, None]}
    return layer("RandomColorDegeneration", 0.5).transform_images(images, transformation)


def sharpness(images, factors):
    """Smoothed at 0, unchanged at 1, sharper above; the outermost pixels stay as they are."""
    # The layer doubles its factor, and smooths the border against black.
    sharpened = layer("RandomSharpness", 0.5).transform_images(images, {"factor": factors / 2})
    inside = tf.pad(tf.ones([images.shape[1] - 2, images.shape[2] - 2, 1], "bool"), [[1, 1], [1, 1], [0, 0]])
    return tf.where(inside, sharpened, images)


def shear(images, x, y):
    """Row y moves by `x * y` pixels, column x by `y * x`, about the upper left corner."""
    transformation = {"shear_factor": tf.stack([x, y], axis=1)}
    return layer("RandomShear", **GEOMETRY).transform_images(images, transformation)


def translate(images, x, y):
    """Images moved to the right and down by numbers of pixels."""
    transformation = {"translations": tf.stack([x, y], axis=1)}
    return layer("RandomTranslation", 0.1, 0.1, **GEOMETRY).transform_images(images, transformation)


def rotate(images, degrees):
    """Images turned counterclockwise about their centre."""
    radians = degrees * (3.141592653589793 / 180)
    cosine, sine, zero = tf.cos(radians), tf.sin(radians), tf.zeros_like(radians)
    y, x = (images.shape[1] - 1) / 2, (images.shape[2] - 1) / 2
    matrix = [cosine, -sine, x - x * cosine + y * sine, sine, cosine, y - x * sine - y * cosine, zero, zero]
    transformation = {"rotation_matrix": tf.stack(matrix, axis=1)}
    return layer("RandomRotation", 0.1, **GEOMETRY).transform_images(images, transformation)
