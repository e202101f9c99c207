"""The 1,797 handwritten digits that ship with scikit-learn, 8 by 8 pixels: real data without a download."""

import numpy as np
from sklearn.datasets import load_digits

from keras_sam.experiments.data.splits import Split, with_symmetric_noise

NUM_TRAIN, NUM_VALIDATION = 1000, 232


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
    x, y = permuted()
    x = (x / 16).astype("float32")
    train, validation, test = np.split(np.arange(len(x)), [NUM_TRAIN - NUM_VALIDATION, NUM_TRAIN])
    noisy = with_symmetric_noise(y[train], noise, num_classes=10, seed=seed)
    return Split(x[train], noisy), Split(x[validation], y[validation]), Split(x[test], y[test])


def permuted():
    """All images, with values from 0 to 16, and labels, in the order of which the first 1,000 are for training."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].reshape(-1, 8, 8, 1), y[order]
