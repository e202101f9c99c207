"""Batches: what they hold, and that a seed decides it."""

import numpy as np
import pytest
import tensorflow as tf

from keras_sam.experiments.data.contact_sheet import contact_sheet
from keras_sam.experiments.data.pipelines import evaluation, num_steps, pipeline
from keras_sam.experiments.data.splits import Data, Split, Stream


def numbered(count=50, shape=(6, 8, 3)):
    """Images labelled by their number, which is their first pixel's value too."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), "uint8")
    images[:, 0, 0, 0] = np.arange(count)
    split = Split(images, np.arange(count))
    mean, deviation = np.arange(shape[-1]) + 100.0, np.arange(shape[-1]) + 50.0
    return Data(split, None, split, count, shape, (mean, deviation))


def streamed(data):
    """The same as files that are read one after the other."""
    files = [tf.io.encode_png(image).numpy() for image in data.train.x]
    stream = Stream(tf.data.Dataset.from_tensor_slices((files, data.train.y)), len(files))
    return data._replace(train=stream, test=stream, image_shape=(None, None, 3))


def arrays(batches, count):
    return [tuple(t.numpy() for t in batch) for batch in batches.take(count)]


def equal(first, second):
    return all((a == b).all() for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_an_epoch_is_the_training_set_in_a_new_order_normalized_by_channel():
    data = numbered()
    batches = arrays(pipeline(data, 10, seed=3), 10)
    mean, deviation = data.normalization
    for images, labels in batches:
        expected = (data.train.x[labels] - mean) / deviation
        np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)
    epochs = [np.concatenate([labels for _, labels in half]) for half in (batches[:5], batches[5:])]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).sum() > 40


def test_examples_that_fill_no_batch_are_left_out_of_one_epoch():
    data = numbered(23)
    assert num_steps(data.train, 5) == 4
    labels = [labels for _, labels in arrays(pipeline(data, 5), 24)]
    epochs = [np.concatenate(labels[i : i + 4]) for i in range(0, 24, 4)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert set(np.concatenate(epochs)) == set(range(23))


def test_batches_have_one_shape_and_no_end():
    batches = pipeline(numbered(), 20, "basic")
    images, labels = batches.element_spec
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((20, 6, 8, 3), tf.float32, (20,), tf.int64)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert pipeline(numbered(), 20, one_hot=True).element_spec[1].shape == (20, 50)


def test_an_iterator_does_not_wait_for_a_tuner():
    data = numbered()
    for batches in (pipeline(data, 10), evaluation(data, data.test, 10)):
        assert batches.options().autotune.enabled is False


def test_evaluation_is_the_split_once_as_it_is():
    data = numbered()
    batches = arrays(evaluation(data, data.test, 20), 9)
    assert [len(labels) for _, labels in batches] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), np.arange(50))
    mean, deviation = data.normalization
    np.testing.assert_allclose(batches[2][0], (data.test.x[40:] - mean) / deviation, rtol=1e-5, atol=1e-6)
    raw = data._replace(normalization=(0.0, 1.0))
    np.testing.assert_array_equal(arrays(evaluation(raw, raw.test, 50), 1)[0][0], data.test.x)


@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_a_seed_decides_all_and_a_run_goes_on_as_if_it_had_not_stopped(kind):
    data, options = numbered(shape=(32, 32, 3)), {"mixup": 1.0}
    if kind == "stream":
        data, options = streamed(data), {"mixup": 1.0, "image_size": 64}
    whole = arrays(pipeline(data, 16, "basic", seed=5, **options), 8)
    for start in (3, 5):
        tf.random.set_seed(start)  # decides nothing
        assert equal(whole[start:], arrays(pipeline(data, 16, "basic", seed=5, start=start, **options), 8 - start))
    assert not equal(whole[:3], whole[3:6])
    assert not equal(whole[:3], arrays(pipeline(data, 16, "basic", seed=6, **options), 3))


def test_a_stream_is_shuffled_and_read_whole():
    data = streamed(numbered())
    labels = [labels for _, labels in arrays(pipeline(data, 10, image_size=16), 10)]
    epochs = [np.concatenate(half) for half in (labels[:5], labels[5:])]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epochs[0]), tuple(epochs[1]), tuple(range(50))}) == 3
    found = arrays(evaluation(data, data.test, 20, image_size=16), 9)
    assert [images.shape for images, _ in found] == [(20, 16, 16, 3)] * 2 + [(10, 16, 16, 3)]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), np.arange(50))


def test_large_batches_are_made_in_pieces():
    """A batch of 96 of six pieces of 16; what is mixed is the whole batch."""
    data = numbered(96, shape=(8, 8, 3))
    images, labels = arrays(pipeline(data, 96, "basic", image_size=64, mixup=1.0), 1)[0]
    assert images.shape == (96, 64, 64, 3)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    own, other = np.sort(np.argsort(labels, axis=1)[:, -2:], axis=1).T
    assert len(set(own) | set(other)) == 96
    # Of 50 images the second piece of what fills no batch is left out as well.
    whole = arrays(pipeline(numbered(50, shape=(8, 8, 3)), 32, image_size=64), 3)
    assert [len(set(labels)) for _, labels in whole] == [32] * 3
    assert equal(whole[1:], arrays(pipeline(numbered(50, shape=(8, 8, 3)), 32, image_size=64, start=1), 2))
    assert [x.shape for x, _ in arrays(evaluation(data, data.test, 40, image_size=64), 3)] == [
        *[(40, 64, 64, 3)] * 2,
        (16, 64, 64, 3),
    ]


def test_the_contact_sheet_shows_each_image_in_each_epoch():
    data = numbered()
    figure = contact_sheet(data, "basic", num_images=4, num_epochs=2)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["0", "1", "2", "3"] * 3
    np.testing.assert_allclose(255 * shown[2].images[0].get_array(), data.train.x[2], atol=0.01)
    mixed = contact_sheet(streamed(data), "flip", num_images=3, num_epochs=1, image_size=16, mixup=1.0)
    assert all(" × " in axes.get_title() for axes in mixed.axes[3:])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, r"`batch_size=0` for 50 examples; expected from 1 to 50"),
        ((51,), {}, r"`batch_size=51` for 50 examples"),
        ((10, "basc"), {}, r"Did you mean 'basic'\?"),
        ((10,), {"mixup": -1.0}, r"`mixup=-1.0`; expected α > 0"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(numbered(), *arguments, **options)


def test_files_need_a_size():
    with pytest.raises(ValueError, match="images that differ in size; expected their height and width"):
        pipeline(streamed(numbered()), 10)
