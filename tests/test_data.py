"""Where data sets come from, what is held out and what is noise, and what is said when they are missing."""

import gzip
import re
import sys
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import required

from keras_sam.experiments.data import digits, fashion_mnist, load, sources
from keras_sam.experiments.data.pipelines import evaluation, pipeline
from keras_sam.experiments.data.splits import Split, hold_out, num_examples, with_symmetric_noise

tfds = required("tensorflow_datasets")
debian = pytest.mark.skipif(not fashion_mnist.FOLDER.exists(), reason="needs Debian's dataset-fashion-mnist")


def store(name, data_dir, **splits):
    """A small data set in TFDS's own format: images and labels of these splits."""
    builder = tfds.builder(name, data_dir=data_dir)

    def examples(images, labels):
        others = {key: b"" for key in builder.info.features if key not in ("image", "label")}
        for i, (image, label) in enumerate(zip(images, labels)):
            yield i, {**others, "image": image, "label": int(label)}

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=str(builder.version),
        features=builder.info.features,
        split_datasets={split: examples(*content) for split, content in splits.items()},
        data_dir=data_dir,
        disable_shuffling=True,
    )


def some(count, shape=(32, 32, 3), seed=0):
    random = np.random.default_rng(seed)
    return Split(random.integers(0, 256, (count, *shape), "uint8"), random.integers(0, 10, count))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    store("cifar10", folder, train=some(200), test=some(20, seed=1))
    store("svhn_cropped", folder, train=some(5), extra=some(7, seed=2), test=some(3, seed=1))
    sizes = [(40 + 3 * i, 70 - 2 * i) for i in range(10)]
    pictures = [np.full((*size, 3), 10 * i, "uint8") for i, size in enumerate(sizes)]
    numbers = np.arange(10)
    store(
        "oxford_flowers102",
        folder,
        train=(pictures, numbers),
        validation=(pictures, 50 + numbers),
        test=(pictures, numbers),
    )
    return folder


def test_arrays_are_what_tfds_holds(data_dir):
    data = load("cifar10", data_dir=data_dir)
    for split, stored in [(data.train, some(200)), (data.test, some(20, seed=1))]:
        np.testing.assert_array_equal(split.x, stored.x)
        np.testing.assert_array_equal(split.y, stored.y)
    assert data.validation is None
    assert (data.num_classes, data.image_shape, data.train.x.dtype) == (10, (32, 32, 3), np.uint8)
    np.testing.assert_allclose(data.normalization[0], [125.3, 123.0, 113.9], atol=0.05)


def test_svhn_has_its_additional_images(data_dir):
    data = load("svhn", data_dir=data_dir)
    expected = np.concatenate([some(5).x, some(7, seed=2).x])
    np.testing.assert_array_equal(
        np.sort(data.train.x.reshape(12, -1), axis=0), np.sort(expected.reshape(12, -1), axis=0)
    )
    assert len(data.test.y) == 3


def test_a_seed_draws_its_part_of_what_is_not_held_out(data_dir):
    options = {"data_dir": data_dir, "seed": 3, "validation": 0.1}
    whole, part = load("cifar10", **options), load("cifar10", num_examples=50, noise=0.4, **options)
    assert part.train.x.shape == (50, 32, 32, 3)
    np.testing.assert_array_equal(part.validation.x, whole.validation.x)
    places = [np.flatnonzero((whole.train.x == image).all((1, 2, 3))).item() for image in part.train.x]
    assert len(set(places)) == 50
    # 20 labels are drawn anew, of which one in ten stays.
    assert 10 <= (whole.train.y[places] != part.train.y).sum() <= 20
    other = load("cifar10", num_examples=50, **{**options, "seed": 4})
    assert not np.array_equal(other.train.x, part.train.x)
    with pytest.raises(ValueError, match=r"`num_examples=181` for a Split of 180 training images"):
        load("cifar10", num_examples=181, **options)


def test_what_is_held_out_is_clean_and_the_rest_is_noisy(data_dir):
    stored = some(200)
    label_of = {image.tobytes(): label for image, label in zip(stored.x, stored.y)}
    data = load("cifar10", data_dir=data_dir, seed=3, validation=0.1, noise=0.5)
    assert [num_examples(split) for split in (data.train, data.validation, data.test)] == [180, 20, 20]
    images = np.concatenate([data.train.x, data.validation.x])
    assert {image.tobytes() for image in images} == set(label_of)
    assert all(label_of[x.tobytes()] == y for x, y in zip(*data.validation))
    np.testing.assert_array_equal(data.test.y, some(20, seed=1).y)
    wrong = np.mean([label_of[x.tobytes()] != y for x, y in zip(*data.train)])
    assert 0.35 < wrong <= 0.5  # one in ten of the 90 that are drawn anew keeps its label

    again, other = (load("cifar10", data_dir=data_dir, seed=s, validation=0.1, noise=0.5) for s in (3, 4))
    np.testing.assert_array_equal(again.train.y, data.train.y)
    np.testing.assert_array_equal(again.validation.x, data.validation.x)
    assert (other.validation.x != data.validation.x).any()
    clean = load("cifar10", data_dir=data_dir, seed=3, validation=0.1)
    np.testing.assert_array_equal(clean.validation.x, data.validation.x)


def test_the_bootstrap_replaces_training_labels(data_dir):
    data = load("cifar10", data_dir=data_dir)
    predicted = np.arange(200) % 7
    relabelled = data._replace(train=Split(data.train.x, predicted), normalization=(0.0, 1.0))
    label_of = {image.astype("float32").tobytes(): label for image, label in zip(data.train.x, predicted)}
    for images, labels in pipeline(relabelled, 50).take(4).as_numpy_iterator():
        assert [label_of[image.tobytes()] for image in images] == list(labels)


def labels_of(dataset):
    return [int(label) for _, labels in dataset.as_numpy_iterator() for label in labels]


def test_streams_hold_out_a_part_and_are_cut_to_one_size(data_dir):
    data = load("oxford_flowers102", data_dir=data_dir, seed=1, validation=0.2)
    assert [num_examples(split) for split in (data.train, data.validation, data.test)] == [16, 4, 10]
    read = {name: labels_of(evaluation(data, getattr(data, name), 3, image_size=24)) for name in data._fields[:3]}
    assert sorted(read["train"] + read["validation"]) == [*range(10), *range(50, 60)]
    assert (len(read["validation"]), read["test"]) == (4, list(range(10)))
    assert read["validation"] != labels_of(
        evaluation(
            data, load("oxford_flowers102", data_dir=data_dir, seed=2, validation=0.2).validation, 3, image_size=24
        )
    )
    raw = data._replace(normalization=(0.0, 1.0))
    images, labels = next(pipeline(raw, 8, "imagenet", image_size=24).as_numpy_iterator())
    assert images.shape == (8, 24, 24, 3)
    # Each picture has one colour, which JPEG keeps.
    np.testing.assert_allclose(images, np.broadcast_to(10.0 * (labels % 50)[:, None, None, None], images.shape), atol=2)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_stand_in_has_the_form_of_each_set(name):
    data = load(name, stand_in=True, validation=0.25)
    assert [num_examples(split) for split in (data.train, data.validation, data.test)] == [96, 32, 64]
    size = None if data.image_shape[0] else 16
    images, labels = next(evaluation(data, data.train, 96, image_size=size).as_numpy_iterator())
    assert images.shape == (96, *(data.image_shape if size is None else (16, 16, 3)))
    assert labels.max() < data.num_classes
    assert [len(numbers) for numbers in data.normalization] == [images.shape[-1]] * 2


def test_statistics_are_the_training_sets():
    data = load("digits")
    assert [split.x.shape for split in (data.train, data.test)] == [(1000, 8, 8, 1), (797, 8, 8, 1)]
    np.testing.assert_allclose(data.normalization, [[data.train.x.mean()], [data.train.x.std()]], rtol=1e-3)
    np.testing.assert_allclose(data.test.x / 255, digits.load()[2].x, atol=0.5 / 255)


def test_published_results_still_have_their_data():
    train, validation, test = digits.load(0.4, seed=1)
    arrays = [train.x, train.y.astype("int64"), validation.x, test.x]
    assert [zlib.crc32(np.ascontiguousarray(a)) for a in arrays] == [4176967410, 1222471453, 2892374868, 2329852865]


@debian
def test_debians_fashion_mnist_is_the_published_one():
    data = load("fashion_mnist", validation=0.1)
    assert [split.x.shape for split in data[:3]] == [(54000, 28, 28, 1), (6000, 28, 28, 1), (10000, 28, 28, 1)]
    np.testing.assert_allclose(data.normalization[0], data.train.x.mean(), rtol=2e-3)
    np.testing.assert_allclose(data.normalization[1], data.train.x.std(), rtol=2e-3)
    assert np.bincount(data.test.y).tolist() == [1000] * 10
    train, *_ = fashion_mnist.load(noise=0.25, seed=1, num_train=400)
    assert [zlib.crc32(a) for a in train] == [2388988912, 1036956044]


def test_the_checksums_are_tfds_own():
    infos = tfds.builder("fashion_mnist").url_infos
    known = {url.rpartition("/")[2]: info.checksum for url, info in infos.items()}
    assert known == fashion_mnist.CHECKSUMS


def published(folder):
    """Four small files with the headers that the published ones have."""
    for name in fashion_mnist.CHECKSUMS:
        with open(folder / name, "wb") as file:
            mtime = fashion_mnist.TIMES[name.partition("-")[0]]
            header = 16 if "images" in name else 8
            with gzip.GzipFile(name.removesuffix(".gz"), "wb", fileobj=file, mtime=mtime) as compressed:
                compressed.write(bytes(header) + bytes(range(200)) * (784 if "images" in name else 1))


def test_a_header_that_was_stripped_is_put_back(tmp_path, monkeypatch):
    published(tmp_path)
    checksums = {}
    for name in fashion_mnist.CHECKSUMS:
        content = (tmp_path / name).read_bytes()
        checksums[name] = fashion_mnist.hashlib.sha256(content).hexdigest()
        assert content[3] == 8
        end = content.index(b"\0", 10) + 1
        (tmp_path / name).write_bytes(content[:3] + bytes(5) + content[8:10] + content[end:])  # as gzip --no-name
    monkeypatch.setattr(fashion_mnist, "CHECKSUMS", checksums)
    data = load("fashion_mnist", folder=tmp_path)
    assert data.train.x.shape == (200, 28, 28, 1)
    np.testing.assert_array_equal(data.test.y, np.arange(200))

    damaged = tmp_path / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged or another file: its SHA-256 is"):
        load("fashion_mnist", folder=tmp_path)


GREYS = {"teal": 50, "auk": 200, "wren": 150, "ibis": 100}


@pytest.fixture
def folder(tmp_path):
    """Four classes, each of one grey, of images of several formats."""
    for part, count in (("train", 3), ("test", 1)):
        for label, grey in GREYS.items():
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                image = np.full((30 + i, 40, 3), grey, "uint8")
                content = tf.io.encode_png(image) if i else tf.io.encode_jpeg(image)
                (tmp_path / part / label / f"{i}.{'PNG' if i else 'jpg'}").write_bytes(content.numpy())
            (tmp_path / part / label / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_images_has_its_classes_in_alphabetical_order(folder):
    data = load("birdsnap", folder=folder, validation=1 / 3, noise=0.0)
    assert (data.num_classes, data.image_shape) == (4, (None, None, 3))
    assert [num_examples(split) for split in (data.train, data.validation, data.test)] == [8, 4, 4]
    raw = data._replace(normalization=(0.0, 1.0))
    images, labels = next(pipeline(raw, 8, "imagenet", image_size=16).as_numpy_iterator())
    alphabetical = np.array([GREYS[label] for label in ("auk", "ibis", "teal", "wren")])
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), alphabetical[labels], atol=3)
    assert labels_of(evaluation(data, data.test, 2, image_size=16)) == [0, 1, 2, 3]


def test_a_folder_that_is_not_complete_is_named(folder):
    (folder / "test" / "auk").rename(folder / "auk")
    with pytest.raises(ValueError, match=r"train and .*test differ: auk is in one of them alone"):
        load("birdsnap", folder=folder)
    (folder / "train" / "owl").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image is in .*train/owl.*train/CLASS/IMAGE\.jpg"):
        load("birdsnap", folder=folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar10", r"cifar10 is not in .*/cifar10/3.*: python -c .*tfds\.load\('cifar10', data_dir='.*'\)"),
        ("imagenet2012", r"Before that, in .*/downloads/manual: .*ILSVRC2012_img_train\.tar"),
        ("fgvc_aircraft", r"there is no image in .*/fgvc_aircraft/train\. Put them into .*train/CLASS/IMAGE\.jpg"),
        ("fashion_mnist", r"tfds\.load\('fashion_mnist'.*Or install Debian's package `dataset-fashion-mnist`"),
    ],
)
def test_missing_data_say_at_once_what_to_do(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "no package")
    started = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load(name, data_dir=tmp_path)
    assert re.search(message, str(error.value)), error.value
    assert time.monotonic() - started < 5


def test_half_of_a_set_is_not_taken_for_the_whole(tmp_path):
    store("cifar10", tmp_path, train=some(5), test=some(3))
    prepared = next(tmp_path.glob("cifar10/*"))
    train = next(prepared.glob("*train*"))
    content = train.read_bytes()
    train.write_bytes(content[:-2000])
    with pytest.raises(FileNotFoundError, match=r"lacks a part of the split 'train'\. Delete that folder, then: To"):
        load("cifar10", data_dir=tmp_path)
    train.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks cifar10-train\.tfrecord-00000-of-00001"):
        load("cifar10", data_dir=tmp_path)
    # What TFDS leaves behind when it is interrupted.
    prepared.rename(prepared.with_name(f"incomplete.Y0CQ65_{prepared.name}"))
    with pytest.raises(FileNotFoundError, match=r"in part alone \(incomplete\.Y0CQ65_3.*\)\. To download"):
        load("cifar10", data_dir=tmp_path)


def test_without_tfds_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install tensorflow-datasets importlib_resources"):
        load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, r"data set 'cifar'; expected one of .*Did you mean 'cifar10'\?"),
        ({"noise": 1.5}, r"`noise=1.5`; expected a share .* in \[0, 1\]"),
        ({"noise": -0.1}, r"`noise=-0.1`"),
        ({"validation": 1.0}, r"`validation=1.0`; expected a share .* in \[0, 1\)"),
        ({"validation": 0.0001}, r"`validation=0.0001`, which is 0 of 1000 training images"),
        ({"name": "imagenet2012", "noise": 0.2, "stand_in": True}, r"`noise=0.2` for imagenet2012; expected 0"),
    ],
)
def test_bad_arguments_say_what_was_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**{"name": "digits", **arguments})


def test_noise_outside_of_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"`noise=2`"):
        with_symmetric_noise(np.zeros(3, int), 2, 10, seed=0)


def test_holding_out_keeps_the_order_of_both_parts():
    split = Split(np.arange(30), np.arange(30))
    kept, out = hold_out(split, 0.3, seed=0)
    assert len(out.y) == 9
    assert all((np.diff(part.y) > 0).all() for part in (kept, out))
    assert hold_out(split, 0, seed=0) == (split, None)
