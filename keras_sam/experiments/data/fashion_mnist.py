"""Fashion-MNIST: 70,000 pictures of clothes, 28 by 28 pixels, from its four original files."""

import gzip
from pathlib import Path

import numpy as np

from keras_sam.experiments.data.digits import Split, with_symmetric_noise

# Where the Debian package `dataset-fashion-mnist` puts the files.
FOLDER = Path("/usr/share/datasets/fashion-mnist")
NUM_VALIDATION = 2000


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


def _read(folder, part):
    """Images and labels. Both files are a header, of 16 and 8 bytes, and then a byte a pixel or label."""
    pixels, labels = (_bytes(folder, f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return (pixels[16:].reshape(-1, 28, 28, 1) / 255).astype("float32"), labels[8:].astype("int64")


def _bytes(folder, name):
    path = Path(folder) / name
    if not path.exists():
        raise FileNotFoundError(
            f"Fashion-MNIST's `{name}` is not in {folder}. Install Debian's package `dataset-fashion-mnist`, or put "
            "the four gz files of https://github.com/zalandoresearch/fashion-mnist there."
        )
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
