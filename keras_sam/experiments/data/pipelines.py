"""Batches for training and for evaluation, by tf.data, which feeds every backend.

```python
data = load("cifar10", validation=0.1)
batches = pipeline(data, 256, "basic+cutout", seed=0)
steps = num_steps(data.train, 256)
model.fit(batches, steps_per_epoch=steps, validation_data=evaluation(data, data.validation, 256))
```

Images are float32, `(pixel − mean) / standard deviation` by channel, of `data.normalization`; for a network with
preprocessing of its own take `data.in_pixels()`.
"""

import math

import numpy as np
import tensorflow as tf

from keras_sam.experiments.data import augmentation as augmentations
from keras_sam.experiments.data import encoded
from keras_sam.experiments.data.splits import Stream, num_examples

# A stream is shuffled in a buffer of so many batches, as in the reference implementation.
BUFFERED_BATCHES = 16
# From this size on images are made so many at a time, whatever the batch size, since each core has its own in memory.
LARGE, CHUNK = 64, 16
# What a seed is used for, so that no two uses draw the same numbers.
ORDER, PIXELS, MIXTURE = range(3)

_as_it_is = tf.autograph.experimental.do_not_convert


def num_steps(split, batch_size):
    """The number of whole batches of an epoch.

    Raises:
        ValueError: If there is none.
    """
    count = num_examples(split)
    if not 1 <= batch_size <= count:
        raise ValueError(f"Received `batch_size={batch_size}` for {count} examples; expected from 1 to {count}.")
    return count // batch_size


def pipeline(data, batch_size, augmentation="none", *, seed=0, start=0, image_size=None, mixup=None, one_hot=False):
    """Batches of the training set for ever, all of one shape; each epoch leaves out the examples that fill no batch.

    What an epoch holds depends on the seed and its number alone, so that a run that goes on at a later step sees to
    the bit what it would have seen. Arrays are shuffled as a whole, a `Stream` in a buffer of 16 batches.

    Args:
        data: `Data`.
        batch_size: Int.
        augmentation: Key of `augmentation.AUGMENTATIONS`. Images that are files are cut by `encoded.random_crop`
            before it. Defaults to `"none"`.
        seed: Int. Defaults to `0`.
        start: Int, the number of steps to leave out. Defaults to `0`.
        image_size: Int, height and width of the images; files need it. Defaults to `None`, the size that they have.
        mixup: Float, the α of Mixup, or `None`. Defaults to `None`.
        one_hot: Boolean, whether labels are one-hot, as with Mixup and CutMix they always are. Defaults to `False`.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    chosen, steps = augmentations.named(augmentation), num_steps(data.train, batch_size)
    if mixup is not None and mixup <= 0:
        raise ValueError(f"Received `mixup={mixup}`; expected α > 0, or None.")
    chunk = _chunk(data, batch_size, image_size)
    examples_of, fetch = _examples(data.train, BUFFERED_BATCHES * batch_size)

    def seeds_for(use, number, num):
        return augmentations.split(tf.random.experimental.stateless_fold_in([seed, use], number), num)

    @_as_it_is
    def epoch_of(number):
        examples = examples_of(seeds_for(ORDER, number, 1)[0])
        return examples.batch(chunk, drop_remainder=True).take(steps * batch_size // chunk)

    @_as_it_is
    def made(examples, number):
        images, labels = fetch(examples)
        seeds = seeds_for(PIXELS, number, len(chosen.steps) + 2)
        if images.dtype == tf.string:
            images = encoded.each(encoded.random_crop, images, image_size, seeds[-1])
        for step, step_seed in zip(chosen.steps, seeds):
            images = step(images, step_seed)
        images = normalized(images, data.normalization)
        if chosen.cutout:
            fill = np.broadcast_to(np.float32(data.fill), images.shape[1:])
            images = augmentations.cutout(images - fill, seeds[-2]) + fill
        return encoded.resized(images, image_size), labels

    @_as_it_is
    def mixed(batch, number):
        images, labels = batch
        seeds = seeds_for(MIXTURE, number, 2)
        labels = tf.one_hot(labels, data.num_classes)
        if chosen.cutmix:
            images, labels = augmentations.cutmix(images, labels, seeds[0])
        if mixup is not None:
            images, labels = augmentations.mixup(images, labels, seeds[1], mixup)
        return images, labels

    epochs = tf.data.Dataset.range(start // steps, tf.int64.max).flat_map(epoch_of)
    chunks = _numbered(epochs.skip(start % steps * batch_size // chunk), start * batch_size // chunk)
    batches = _rebatched(chunks.map(made, tf.data.AUTOTUNE), chunk, batch_size, drop_remainder=True)
    if one_hot or chosen.cutmix or mixup is not None:
        batches = _numbered(batches, start).map(mixed, tf.data.AUTOTUNE)
    return _finished(batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)))


def evaluation(data, split, batch_size, *, image_size=None, one_hot=False):
    """A split once, in its order, not augmented; the last batch may be smaller. Files are cut by their middle.

    Args:
        data: `Data`.
        split: One of its splits.
        batch_size: Int.
        image_size: Int, as for `pipeline`. Defaults to `None`.
        one_hot: Boolean, whether labels are one-hot. Defaults to `False`.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`.
    """
    chunk = _chunk(data, batch_size, image_size)
    examples_of, fetch = _examples(split)

    @_as_it_is
    def made(*examples):
        images, labels = fetch(examples if isinstance(split, Stream) else examples[0])
        if images.dtype == tf.string:
            images = encoded.each(encoded.central_crop, images, image_size)
        if one_hot:
            labels = tf.one_hot(labels, data.num_classes)
        return encoded.resized(normalized(images, data.normalization), image_size), labels

    chunks = examples_of().batch(chunk).map(made, tf.data.AUTOTUNE)
    return _finished(_rebatched(chunks, chunk, batch_size, drop_remainder=False))


def normalized(images, normalization):
    """`(pixel − mean) / standard deviation`, by channel."""
    # A constant of three numbers takes TensorFlow three times as long as one of a whole image.
    mean, deviation = (np.broadcast_to(np.float32(n), images.shape[1:]) for n in normalization)
    return (tf.cast(images, "float32") - mean) / deviation


def _examples(split, buffer_size=None):
    """Functions that read a split: from a seed, or none, to a dataset; from a batch of that to images and labels.

    Where examples can be looked up, the dataset is of their numbers alone.
    """
    if isinstance(split, Stream):

        def in_buffer(seed=None):
            if seed is None:
                return split.examples
            # Else the order would depend on TensorFlow's global seed too.
            tf.compat.v1.set_random_seed(1)
            return split.examples.shuffle(buffer_size, tf.cast(seed[0], "int64"), reshuffle_each_iteration=False)

        return in_buffer, lambda chunk: chunk

    with tf.device("CPU"):
        x, y = tf.convert_to_tensor(split.x), tf.convert_to_tensor(split.y)

    def numbers(seed=None):
        order = tf.range(len(split.y))
        return tf.data.Dataset.from_tensor_slices(
            order if seed is None else tf.random.experimental.stateless_shuffle(order, seed)
        )

    def look_up(chunk):
        images = tf.gather(x, chunk)
        return tf.map_fn(tf.io.read_file, images) if x.dtype == tf.string else images, tf.gather(y, chunk)

    return numbers, look_up


def _chunk(data, batch_size, image_size):
    """How many images are made at a time."""
    size = image_size or data.image_shape[0]
    if size is None:
        raise ValueError("Received `image_size=None` for images that differ in size; expected their height and width.")
    return math.gcd(batch_size, CHUNK) if size >= LARGE else batch_size


def _numbered(dataset, first):
    return tf.data.Dataset.zip(dataset, tf.data.Dataset.range(first, tf.int64.max))


def _rebatched(chunks, chunk, batch_size, drop_remainder):
    return chunks if chunk == batch_size else chunks.rebatch(batch_size, drop_remainder=drop_remainder)


def _finished(batches):
    options = tf.data.Options()
    # Workers of one run share each batch; by files they would see different epochs.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # It makes no more images a second here, and the end of an iterator waits for it: 10 to 40 seconds a training.
    options.autotune.enabled = False
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
