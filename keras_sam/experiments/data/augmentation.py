"""Augmentations of batches of images: what is drawn for each image, all of it from one seed.

A step is a function of images, as they are stored or as float32 from 0 to 255, and a seed, a tensor of two integers.
"""

import difflib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_sam.experiments.data import layers, operations, policies
from keras_sam.experiments.data.layers import with_keras

# Pixels that a crop is padded by, and the side of Cutout's square, as in the reference implementation for all sets.
PAD, CUTOUT = 4, 16


class Augmentation(NamedTuple):
    """What is done to images for training.

    Args:
        steps: Functions of `(images, seed)`, in their order. Defaults to `()`.
        cutout: Boolean, whether `cutout` follows, on normalized images. Defaults to `False`.
        cutmix: Boolean, whether `cutmix` is the end. Defaults to `False`.
    """

    steps: tuple = ()
    cutout: bool = False
    cutmix: bool = False


def split(seed, num):
    """As many seeds, independent of each other."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, num))


def flip(images, seed):
    """Mirrored from left to right with a probability of one half."""
    return layers.flip(images, tf.random.stateless_uniform([tf.shape(images)[0]], seed) < 0.5)


def crop(images, seed):
    """A random part, of the image's size, of the image with 4 mirrored pixels on all sides.

    Neither KerasCV nor Keras has it: the one scales and rounds, the other takes one offset for a whole batch.
    """
    shape = [tf.shape(images)[0], 2]
    offsets = tf.random.stateless_uniform(shape, seed, -PAD, PAD + 1, "int32")

    def mirrored(offset, size):
        last = size - 1
        return last - tf.abs(last - tf.abs(offset[:, None] + tf.range(size)))

    # Without the padding, which is slower than all the rest.
    images = tf.gather(images, mirrored(offsets[:, 0], images.shape[1]), axis=1, batch_dims=1)
    return tf.gather(images, mirrored(offsets[:, 1], images.shape[2]), axis=2, batch_dims=1)


def cutout(images, seed):
    """A square of 16 pixels a side becomes 0, the mean of centred images; its centre is any pixel.

    Raises:
        ValueError: If images are no larger than that.

    Reference: [DeVries & Taylor, 2017](https://arxiv.org/abs/1708.04552).
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    if min(height, width) <= CUTOUT:
        raise ValueError(f"Received images of {height} by {width} pixels for Cutout, whose square has {CUTOUT}.")
    seeds = split(seed, 2)
    center_y = tf.random.stateless_uniform([count], seeds[0], maxval=height, dtype="int32")
    center_x = tf.random.stateless_uniform([count], seeds[1], maxval=width, dtype="int32")
    return layers.cutout(images, center_y, center_x, tf.fill([count], CUTOUT), 0.0)


def policy(sub_policies):
    """The step in which each image draws a sub-policy, and whether each of its two operations happens."""
    table = np.array(
        [
            [(operations.NAMES.index(n), p, argument, n in policies.SIGNED) for n, p, argument in s]
            for s in sub_policies
        ],
        "float32",
    )

    def step(images, seed):
        if images.shape[-1] != 3:
            raise ValueError(f"Received images with {images.shape[-1]} channels; the policies are for 3.")
        images, count = tf.cast(images, "float32"), tf.shape(images)[0]
        seeds = split(seed, 3)
        drawn = tf.gather(table, tf.random.stateless_uniform([count], seeds[0], maxval=len(table), dtype="int32"))
        for i in range(2):
            name, probability, argument, signed = tf.unstack(drawn[:, i], axis=1)
            happens, sign, y, x = tf.unstack(tf.random.stateless_uniform([count, 4], seeds[1 + i]), axis=1)
            chosen = tf.where(happens < probability, tf.cast(name, "int32"), operations.NAMES.index("Identity"))
            argument = tf.where((signed == 1) & (sign < 0.5), -argument, argument)
            images = operations.apply(images, chosen, argument, tf.stack([y, x], axis=1))
        return images

    return step


def mixup(images, labels, seed, alpha):
    """Each image and one-hot label λ of itself and 1 − λ of another of the batch, λ ~ Beta(α, α).

    Reference: [Zhang et al., 2017](https://arxiv.org/abs/1710.09412).
    """
    seeds = split(seed, 3)
    # Beta from two Gammas; for a small α both can be 0.
    own, other = (tf.maximum(tf.random.stateless_gamma([images.shape[0]], s, alpha), 1e-30) for s in seeds[:2])
    return _mixed("MixUp", images, labels, seeds[2], mix_weight=own / (own + other))


def cutmix(images, labels, seed):
    """A box of another image of the batch in each, of an area that is uniform before the border cuts it off.

    Reference: [Yun et al., 2019](https://arxiv.org/abs/1905.04899), with α = 1.
    """
    count, height, width, _ = images.shape
    seeds = split(seed, 2)
    area, y, x = tf.unstack(tf.random.stateless_uniform([3, count], seeds[0]))
    center_y, center_x = tf.cast(y * height, "int32"), tf.cast(x * width, "int32")
    height, width = (tf.cast(tf.sqrt(area) * side, "int32") for side in (height, width))
    # Keras draws boxes that are inside the image, which makes the middle of it the likelier place.
    boxes = with_keras.rectangles(images, center_y, center_x, height, width)
    weight = 1 - tf.reduce_mean(tf.cast(boxes, "float32"), axis=(1, 2, 3))
    return _mixed("CutMix", images, labels, seeds[1], mix_weight=weight, batch_masks=boxes)


def _mixed(name, images, labels, seed, **transformation):
    """By Keras's layer, with KerasCV installed too: KerasCV's draws for itself, from no seed of ours."""
    transformation["permutation_order"] = tf.random.experimental.stateless_shuffle(tf.range(images.shape[0]), seed)
    layer = with_keras.layer(name)
    return layer.transform_images(images, transformation), layer.transform_labels(labels, transformation)


AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation((flip,)),
    # With the random part of an image that training takes where images differ in size.
    "imagenet": Augmentation((flip,)),
    "basic": Augmentation((crop, flip)),
    "basic+cutout": Augmentation((crop, flip), cutout=True),
    "basic+cutmix": Augmentation((crop, flip), cutmix=True),
    "autoaugment-cifar": Augmentation((policy(policies.CIFAR), crop, flip), cutout=True),
    "autoaugment-svhn": Augmentation((policy(policies.SVHN),), cutout=True),
    "autoaugment-imagenet": Augmentation((policy(policies.IMAGENET), flip)),
    "randaugment": Augmentation((policy(policies.RANDAUGMENT), flip)),
}


def named(name):
    """The augmentation of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in AUGMENTATIONS:
        near = difflib.get_close_matches(name, AUGMENTATIONS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"Received `augmentation={name!r}`; expected one of {list(AUGMENTATIONS)}.{hint}")
    return AUGMENTATIONS[name]
