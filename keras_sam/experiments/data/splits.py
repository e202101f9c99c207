"""A data set in three parts, one of them held out, and wrong labels in the first."""

from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples that can be looked up.

    Args:
        x: Array of images `(examples, height, width, channels)`, or of paths to image files `(examples,)`.
        y: Array of integer labels.
    """

    x: np.ndarray
    y: np.ndarray


class Stream(NamedTuple):
    """Examples that are read from beginning to end.

    Args:
        examples: `tf.data.Dataset` of encoded images and integer labels, in an order that is always the same.
        num_examples: Int.
    """

    examples: Any
    num_examples: int


class Data(NamedTuple):
    """What `load` returns. `data._replace(train=Split(data.train.x, labels))` relabels it, as the bootstrap does.

    Args:
        train: `Split` or `Stream`.
        validation: `Split` or `Stream` of other images with clean labels, or `None`.
        test: `Split` or `Stream`.
        num_classes: Int.
        image_shape: `(height, width, channels)`, `None` where images differ.
        normalization: `(mean, standard deviation)` by channel, of pixel values from 0 to 255.
        fill: What Cutout puts in place of pixels, by channel, in the units of the images that are fed. Defaults to
            `0.0`, the mean of normalized ones.
    """

    train: Split | Stream
    validation: Split | Stream | None
    test: Split | Stream
    num_classes: int
    image_shape: tuple
    normalization: tuple
    fill: Any = 0.0

    def in_pixels(self):
        """The same for a network that takes values from 0 to 255."""
        return self._replace(normalization=(0.0, 1.0), fill=self.normalization[0])


def num_examples(split):
    """The number of examples of a `Split` or `Stream`."""
    return split.num_examples if isinstance(split, Stream) else len(split.y)


def hold_out(split, share, seed):
    """What is left of a split without a share of its examples, drawn by the seed; and those, or `None` if none are.

    Raises:
        ValueError: If the share is not in [0, 1), or leaves nothing on either side.
    """
    count = num_examples(split)
    if not 0 <= share < 1:
        raise ValueError(f"Received `validation={share}`; expected a share of the training set in [0, 1).")
    num_held_out = round(share * count)
    if share and not 0 < num_held_out < count:
        raise ValueError(f"Received `validation={share}`, which is {num_held_out} of {count} training images.")
    if not num_held_out:
        return split, None
    is_held_out = np.zeros(count, bool)
    is_held_out[np.random.default_rng(seed).permutation(count)[:num_held_out]] = True
    if not isinstance(split, Stream):
        return tuple(Split(split.x[chosen], split.y[chosen]) for chosen in (~is_held_out, is_held_out))

    import tensorflow as tf

    def part(chosen):
        examples = split.examples.enumerate().filter(lambda number, _: tf.gather(chosen, number))
        return Stream(examples.map(lambda _, example: example), int(chosen.sum()))

    return part(~is_held_out), part(is_held_out)


def draw(split, count, seed):
    """So many examples of a `Split`, drawn by the seed.

    Raises:
        ValueError: If there are not so many, or if they are a `Stream`.
    """
    if isinstance(split, Stream) or not 0 < count <= len(split.y):
        raise ValueError(
            f"Received `num_examples={count}` for a {type(split).__name__} of {num_examples(split)} training images; "
            "expected at most as many, of a set whose images are arrays or paths."
        )
    chosen = np.random.default_rng(seed).permutation(len(split.y))[:count]
    return Split(split.x[chosen], split.y[chosen])


def with_symmetric_noise(labels, noise, num_classes, seed):
    """Labels of which a share, rounded to whole examples, is drawn anew from all classes, the right one included.

    Raises:
        ValueError: If the share is not in [0, 1].

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), section 3.3.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"Received `noise={noise}`; expected a share of the training labels in [0, 1].")
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(labels))[: round(noise * len(labels))]
    noisy = labels.copy()
    noisy[chosen] = random.integers(0, num_classes, len(chosen))
    return noisy
