"""Data sets by name, from wherever they are on this machine."""

import difflib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_sam.experiments.data import digits, fashion_mnist, folders, from_tfds
from keras_sam.experiments.data.splits import Data, Split, Stream, draw, hold_out, with_symmetric_noise

# Keep what is held out, and what is drawn, apart from which labels are wrong.
HELD_OUT, DRAWN = 1, 2
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR100_STATISTICS = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class Source(NamedTuple):
    """A data set.

    Args:
        tfds: Its name in tensorflow-datasets, or `None` if it is not there.
        num_classes: Int.
        train: TFDS's name of the training split. Defaults to `"train"`.
        test: TFDS's name of the test split. Defaults to `"test"`.
        image_shape: `(height, width, channels)`. Defaults to images of three channels that differ in size.
        statistics: Mean and standard deviation of each channel of the training set, where white is 1. Defaults to
            ImageNet's.
    """

    tfds: str | None
    num_classes: int
    train: str = "train"
    test: str = "test"
    image_shape: tuple = (None, None, 3)
    statistics: tuple = IMAGENET_STATISTICS


SOURCES = {
    "digits": Source(None, 10, image_shape=(8, 8, 1), statistics=((0.3050,), (0.3756,))),
    "fashion_mnist": Source("fashion_mnist", 10, image_shape=(28, 28, 1), statistics=((0.2860,), (0.3530,))),
    "cifar10": Source(
        *("cifar10", 10),
        image_shape=(32, 32, 3),
        statistics=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": Source("cifar100", 100, image_shape=(32, 32, 3), statistics=CIFAR100_STATISTICS),
    # With the additional images, as table 5 has it.
    "svhn": Source(
        *("svhn_cropped", 10, "train+extra"),
        image_shape=(32, 32, 3),
        statistics=((0.4309, 0.4302, 0.4463), (0.1976, 0.2003, 0.1981)),
    ),
    "imagenet2012": Source("imagenet2012", 1000, test="validation"),
    "food101": Source("food101", 101, test="validation"),
    "oxford_flowers102": Source("oxford_flowers102", 102, "train+validation"),
    "oxford_iiit_pet": Source("oxford_iiit_pet", 37),
    "cars196": Source("cars196", 196),
    "fgvc_aircraft": Source(None, 100),
    "birdsnap": Source(None, 500),
}


def load(
    name,
    *,
    seed=0,
    validation=0.0,
    num_examples=None,
    noise=0.0,
    folder=None,
    data_dir=None,
    download=False,
    stand_in=False,
):
    """A data set, with a part of the training set held out, and wrong labels in the rest of it.

    Sets of images of one size are uint8 arrays. The others stay files until a pipeline decodes them. They come from
    tensorflow-datasets, which has to have prepared them, except that `digits` ships with scikit-learn, `fashion_mnist`
    is also looked for where Debian's package puts it, and `fgvc_aircraft` and `birdsnap` are folders of images.

    Args:
        name: Key of `SOURCES`.
        seed: Int, of what is held out and of the wrong labels. Defaults to `0`.
        validation: Float in [0, 1), the share of the training set to hold out, with clean labels. Defaults to `0.0`.
        num_examples: Int, how many of the others are drawn to train on. Defaults to `None`, all.
        noise: Float in [0, 1], the share of the training labels that are drawn anew. Defaults to `0.0`.
        folder: Where to read the set instead: a folder as `folders` describes it, for `fashion_mnist` one with the
            four published files. Defaults to `None`.
        data_dir: Folder of all of TFDS's sets, and of the folders of images. Defaults to `None`, TFDS's own.
        download: Boolean, whether TFDS may download what is missing. Defaults to `False`.
        stand_in: Boolean, whether to take a few random images instead, of the same form. Defaults to `False`.

    Returns:
        `Data`.

    Raises:
        ValueError: If there is no such set, a share is out of range, or a file is damaged.
        FileNotFoundError: If the set, or a part of it, is missing: what to install, or where to put it.
    """
    source = _named(name)
    if not 0 <= noise <= 1:
        raise ValueError(f"Received `noise={noise}`; expected a share of the training labels in [0, 1].")
    if stand_in:
        from keras_sam.experiments.data import stand_ins

        train, test = stand_ins.splits(source.num_classes, source.image_shape)
    elif name == "digits":
        train, test = _digits()
    elif name == "fashion_mnist":
        train, test = _fashion_mnist(source, folder, data_dir, download)
    elif folder or not source.tfds:
        train, test, num_classes = folders.splits(folder or _data_dir(data_dir) / name, name)
        source = source._replace(num_classes=num_classes, image_shape=(None, None, 3))
    else:
        train, test = _from_tfds(source, data_dir, download)
    train, validation = hold_out(train, validation, [seed, HELD_OUT])
    if num_examples and not stand_in:
        train = draw(train, num_examples, [seed, DRAWN])
    if noise and isinstance(train, Stream):
        raise ValueError(f"Received `noise={noise}` for {name}; expected 0 where labels are read with the images.")
    if noise:
        train = Split(train.x, with_symmetric_noise(train.y, noise, source.num_classes, seed))
    normalization = tuple(255 * np.array(numbers) for numbers in source.statistics)
    return Data(train, validation, test, source.num_classes, source.image_shape, normalization)


def _named(name):
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"Received the data set {name!r}; expected one of {list(SOURCES)}.{hint}")
    return SOURCES[name]


def _digits():
    """The split of `digits.load`, with 255 for its white of 16."""
    x, y = digits.permuted()
    x = np.round(x * (255 / 16)).astype("uint8")
    return Split(x[: digits.NUM_TRAIN], y[: digits.NUM_TRAIN]), Split(x[digits.NUM_TRAIN :], y[digits.NUM_TRAIN :])


def _fashion_mnist(source, folder, data_dir, download):
    if folder or fashion_mnist.FOLDER.exists():
        return fashion_mnist.verified(folder or fashion_mnist.FOLDER)
    try:
        return _from_tfds(source, data_dir, download)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise type(error)(f"{error} Or install Debian's package `dataset-fashion-mnist`.") from error


def _from_tfds(source, data_dir, download):
    builder = from_tfds.prepared(source.tfds, [source.train, source.test], data_dir, download)
    read = from_tfds.arrays if source.image_shape[0] else from_tfds.stream
    return read(builder, source.train), read(builder, source.test)


def _data_dir(data_dir):
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
