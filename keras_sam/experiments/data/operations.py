"""The operations of AutoAugment and RandAugment, on batches in which every image has its own.

Each takes images, float32 from 0 to 255, one argument an image, and a point of the unit square an image, of which
Cutout makes its centre. What neither KerasCV nor Keras has as the policies mean it is written out here: both take the
mean of contrast by channel, add for brightness where PIL multiplies, and equalize by other tables than PIL's.

References: [Cubuk et al., 2018](https://arxiv.org/abs/1805.09501), table 6; `ImageOps` and `ImageEnhance` of PIL.
"""

import tensorflow as tf

from keras_sam.experiments.data import layers
from keras_sam.experiments.data.layers.with_keras import GREY


def _pixels(share, images, axis):
    return tf.round(share * images.shape[axis])


def cutout(images, side, position):
    """A square of a share of the image's side becomes grey."""
    center_y, center_x = (tf.cast(position[:, i] * images.shape[1 + i], "int32") for i in range(2))
    side = tf.cast(_pixels(side, images, 1), "int32")
    return layers.cutout(images, center_y, center_x, side, GREY)


def contrast(images, factor, _):
    grey = tf.image.rgb_to_grayscale(images)
    mean = tf.floor(tf.reduce_mean(grey, axis=(1, 2, 3), keepdims=True) + 0.5)
    return tf.clip_by_value(mean + factor[:, None, None, None] * (images - mean), 0.0, 255.0)


def brightness(images, factor, _):
    return tf.clip_by_value(factor[:, None, None, None] * images, 0.0, 255.0)


def posterize(images, bits, _):
    """The highest bits alone; KerasCV's layer takes one number of bits for all images."""
    step = 2.0 ** (8 - bits[:, None, None, None])
    return step * tf.floor(images / step)


def solarize_add(images, addition, _):
    """Added to what is below 128; KerasCV's layer inverts the sum instead."""
    added = tf.minimum(images + addition[:, None, None, None], 255.0)
    return tf.where(images < 128, added, images)


def equalize(images, *_):
    """Each channel's histogram flattened, by PIL's table."""
    channels = tf.transpose(tf.cast(images, "int32"), [0, 3, 1, 2])
    values = tf.reshape(channels, [-1, images.shape[1] * images.shape[2]])
    histogram = tf.math.bincount(values, minlength=256, maxlength=256, axis=-1)
    # The pixels of the highest value are left out of the step, as in PIL.
    last = tf.gather(histogram, tf.reduce_max(values, axis=1, keepdims=True), batch_dims=1)
    step = (values.shape[1] - last) // 255
    table = (tf.cumsum(histogram, axis=1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    equalized = tf.where(step == 0, values, tf.gather(tf.minimum(table, 255), values, batch_dims=1))
    return tf.cast(tf.transpose(tf.reshape(equalized, tf.shape(channels)), [0, 2, 3, 1]), "float32")


OPERATIONS = {
    "Identity": lambda images, *_: images,
    "AutoContrast": lambda images, *_: layers.auto_contrast(images),
    "Brightness": brightness,
    "Color": lambda images, factor, _: layers.color(images, factor),
    "Contrast": contrast,
    "Cutout": cutout,
    "Equalize": equalize,
    "Invert": lambda images, *_: 255 - images,
    "Posterize": posterize,
    "Rotate": lambda images, degrees, _: layers.rotate(images, degrees),
    "Sharpness": lambda images, factor, _: layers.sharpness(images, factor),
    "ShearX": lambda images, factor, _: layers.shear(images, factor, tf.zeros_like(factor)),
    "ShearY": lambda images, factor, _: layers.shear(images, tf.zeros_like(factor), factor),
    "Solarize": lambda images, threshold, _: layers.solarize(images, threshold),
    "SolarizeAdd": solarize_add,
    "TranslateX": lambda images, share, _: layers.translate(images, _pixels(share, images, 2), tf.zeros_like(share)),
    "TranslateY": lambda images, share, _: layers.translate(images, tf.zeros_like(share), _pixels(share, images, 1)),
}
NAMES = tuple(OPERATIONS)


def apply(images, chosen, arguments, positions):
    """Each image by its own operation.

    Args:
        images: Float tensor of shape `(images, height, width, 3)`.
        chosen: Int tensor, an index of `NAMES` for each image.
        arguments: Float tensor, one for each image.
        positions: Float tensor of shape `(images, 2)`, of the unit square.

    Returns:
        A tensor like `images`.
    """
    # Images of one operation are changed together, which is many times faster than one by one.
    groups = tf.dynamic_partition(tf.range(tf.shape(images)[0]), chosen, len(NAMES))

    def changed(operation, group):
        drawn = [tf.gather(tensor, group) for tensor in (images, arguments, positions)]
        return tf.cond(tf.size(group) > 0, lambda: operation(*drawn), lambda: drawn[0])

    parts = [changed(operation, group) for operation, group in zip(OPERATIONS.values(), groups)]
    # In whole levels, as PIL has them: 254.99 is not 254 for the next operation.
    return tf.ensure_shape(tf.round(tf.dynamic_stitch(groups, parts)), images.shape)
