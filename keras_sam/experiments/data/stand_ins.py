"""Random images in the place of a data set, to see that everything else works."""

import numpy as np
import tensorflow as tf

from keras_sam.experiments.data.splits import Split, Stream

NUM_TRAIN, NUM_TEST = 128, 64
# From and to which images differ in size, where they do.
SIZES = (40, 64)


def splits(num_classes, image_shape):
    """A training and a test set, labelled in turn: `Split`s of uint8 images, or `Stream`s if they differ in size."""
    random = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % num_classes
        if image_shape[0]:
            return Split(random.integers(0, 256, (count, *image_shape), "uint8"), labels)
        sizes = random.integers(*SIZES, (count, 2))
        images = [tf.io.encode_jpeg(random.integers(0, 256, (*size, 3), "uint8")).numpy() for size in sizes]
        return Stream(tf.data.Dataset.from_tensor_slices((images, labels)), count)

    return split(NUM_TRAIN), split(NUM_TEST)
