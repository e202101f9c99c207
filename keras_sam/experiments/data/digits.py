"""The 1,797 handwritten digits that ship with scikit-learn, 8 by 8 pixels: real data without a download."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

NUM_TRAIN, NUM_VALIDATION = 1000, 232


class Split(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def load(noise=0.0, seed=0):
    """Training, validation and test split; the first with a share of its labels drawn anew.

    The first 1,000 images of one fixed permutation are for training, and 232 of them are held out, with clean
    labels, to choose by: 768 are left, six whole batches of 128. The other 797 are the test set.

    Args:
        noise: Float in [0, 1], the share of training labels that are replaced. Defaults to `0.0`.
        seed: Int, the seed of the noise; the splits do not depend on it. Defaults to `0`.

    Returns:
        `Split`s of 768, 232 and 797 images of shape `(8, 8, 1)` in [0, 1], and integer labels.
    """
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x[order] / 16).astype("float32").reshape(-1, 8, 8, 1)
    train, validation, test = np.split(np.arange(len(x)), [NUM_TRAIN - NUM_VALIDATION, NUM_TRAIN])
    y = y[order]
    noisy = with_symmetric_noise(y[train], noise, num_classes=10, seed=seed)
    return Split(x[train], noisy), Split(x[validation], y[validation]), Split(x[test], y[test])


def with_symmetric_noise(labels, noise, num_classes, seed):
    """Labels of which a share, rounded to whole examples, is drawn anew from all classes, the right one included.

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), section 3.3.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(labels))[: round(noise * len(labels))]
    noisy = labels.copy()
    noisy[chosen] = random.integers(0, num_classes, len(chosen))
    return noisy
