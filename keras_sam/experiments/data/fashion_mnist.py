"""Fashion-MNIST: 70,000 pictures of clothes, 28 by 28 pixels, from its four original files."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np

from keras_sam.experiments.data.splits import Split, with_symmetric_noise

# Where the Debian package `dataset-fashion-mnist` puts the files, if nothing else is said.
FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
NUM_VALIDATION = 2000
# The files as they were published, by TFDS's own list.
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
# When they were compressed, which is in their headers.
TIMES = {"train": 1504176606, "t10k": 1504176627}


def load(noise=0.0, seed=0, num_train=5000, folder=FOLDER):
    """A part of the training images, 2,000 others to choose by, and the test set.

    Args:
        noise: Float in [0, 1], the share of training labels that are drawn anew. Defaults to `0.0`.
        seed: Int, of the part and of the noise. Defaults to `0`.
        num_train: Int, the training images of the part. Defaults to `5000`.
        folder: Where the four gz files are. Defaults to `FOLDER`.

    Returns:
        `Split`s of `num_train`, 2,000 and 10,000 images of shape `(28, 28, 1)` in [0, 1], and integer labels, those of
        the last two clean.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    x, y = _read(folder, "train")
    order = np.random.default_rng(seed).permutation(len(y))
    train, validation = order[:num_train], order[num_train : num_train + NUM_VALIDATION]
    noisy = with_symmetric_noise(y[train], noise, num_classes=10, seed=seed)
    return Split(x[train], noisy), Split(x[validation], y[validation]), Split(*_read(folder, "t10k"))


def verified(folder=FOLDER):
    """The whole training and test set, as they were published: `Split`s of 60,000 and 10,000 uint8 images.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not the published one.
    """
    for name, expected in CHECKSUMS.items():
        found = hashlib.sha256(original(_path(folder, name))).hexdigest()
        if found != expected:
            raise ValueError(
                f"{Path(folder) / name} is damaged or another file: its SHA-256 is {found}, expected {expected}. "
                "Install Debian's package `dataset-fashion-mnist` again, or download the file again."
            )
    return tuple(Split(*_pixels_and_labels(folder, part)) for part in TIMES)


def original(path):
    """A file's bytes with the gzip header that it was published with, which Debian strips of name and time."""
    content = path.read_bytes()
    if content[3:4] != b"\0":  # no flags
        return content
    time = TIMES[path.name.partition("-")[0]].to_bytes(4, "little")
    return content[:3] + b"\x08" + time + content[8:10] + path.stem.encode() + b"\0" + content[10:]


def _read(folder, part):
    pixels, labels = _pixels_and_labels(folder, part)
    return (pixels / 255).astype("float32"), labels


def _pixels_and_labels(folder, part):
    """Both files are a header, of 16 and 8 bytes, and then a byte a pixel or label."""
    pixels, labels = (_bytes(folder, f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return pixels[16:].reshape(-1, 28, 28, 1), labels[8:].astype("int64")


def _bytes(folder, name):
    return np.frombuffer(gzip.decompress(_path(folder, name).read_bytes()), np.uint8)


def _path(folder, name):
    path = Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(
            f"Fashion-MNIST's `{name}` is not in {folder}. Install Debian's package `dataset-fashion-mnist`, or put "
            "the four gz files of https://github.com/zalandoresearch/fashion-mnist there, or into a folder that the "
            "environment variable FASHION_MNIST names."
        )
    return path
