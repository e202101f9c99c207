"""Every augmentation against PIL or NumPy, by KerasCV's layers and by Keras's own."""

import importlib
import importlib.util
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from conftest import required
from PIL import Image, ImageEnhance, ImageOps

from keras_sam.experiments.data import augmentation, encoded, layers, operations, policies
from keras_sam.experiments.data.layers import with_keras

SEED = tf.constant([1, 2])


def use(library, monkeypatch):
    """Let one of the two libraries make the augmentations; returns its module."""
    if library == "keras_cv":
        required("keras_cv")
    module = importlib.import_module(f"keras_sam.experiments.data.layers.with_{library}")
    for name in layers.NAMES:
        monkeypatch.setattr(layers, name, getattr(module, name))
    return module


@pytest.fixture(params=["keras_cv", "keras"])
def library(request, monkeypatch):
    return use(request.param, monkeypatch)


def near(count, total, probability):
    """Whether a count is within five standard deviations of what a probability says."""
    return abs(count - total * probability) < 5 * np.sqrt(total * probability * (1 - probability))


def test_each_library_makes_its_own_layers(library):
    made = library.layer("RandomFlip", "horizontal")
    assert type(made).__module__.startswith("keras_cv" if "keras_cv" in library.__name__ else "keras.src")
    assert made.compute_dtype == "float32"


def test_keras_takes_over_where_keras_cv_is_not_installed(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        assert importlib.reload(layers).chosen is with_keras
        assert layers.flip is with_keras.flip
    importlib.reload(layers)
    assert (layers.chosen is with_keras) == (importlib.util.find_spec("keras_cv") is None)


def test_flip_mirrors_half_of_the_images(library):
    images = np.arange(4000 * 2 * 3 * 2).reshape(4000, 2, 3, 2) % 251
    flipped = augmentation.flip(tf.constant(images, "uint8"), SEED).numpy()
    is_flipped = (flipped != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[is_flipped], images[is_flipped][:, :, ::-1])
    assert near(is_flipped.sum(), 4000, 0.5)


def test_crop_takes_each_of_81_parts_of_the_mirrored_image_equally_often():
    image = np.arange(48, dtype="uint8").reshape(6, 8, 1)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)], mode="reflect")
    parts = {padded[y : y + 6, x : x + 8].tobytes(): (y, x) for y in range(9) for x in range(9)}
    cropped = augmentation.crop(tf.constant(np.tile(image, [8100, 1, 1, 1])), SEED).numpy()
    counts = Counter(parts[c.tobytes()] for c in cropped)
    assert len(counts) == 81
    assert all(near(count, 8100, 1 / 81) for count in counts.values())


def square(y, x, side, shape):
    """Where a square about a pixel is, by the definition: `side` rows from `y - side / 2` on, those that exist."""
    rows, columns = (range(center - side // 2, center - side // 2 + side) for center in (y, x))
    return np.array([[i in rows and j in columns for j in range(shape[1])] for i in range(shape[0])])


def test_cutout_is_16_pixels_wide_about_any_pixel_and_is_cut_off_by_the_border(library):
    centers = {(~square(y, x, 16, (20, 24))).tobytes(): (y, x) for y in range(20) for x in range(24)}
    cut = augmentation.cutout(tf.ones([4800, 20, 24, 1]), SEED).numpy()[..., 0]
    assert set(np.unique(cut)) == {0.0, 1.0}
    counts = Counter(centers[(c == 1).tobytes()] for c in cut)
    for axis, size in enumerate((20, 24)):
        for place in range(size):
            count = sum(n for center, n in counts.items() if center[axis] == place)
            assert near(count, 4800, 1 / size)


def pictures():
    """Noise, noise of little contrast, noise that is mostly white, a ramp, and one colour; 20 by 24 pixels."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(3 * np.arange(20), 5 * np.arange(24))
    return np.stack(
        [
            random.integers(0, 256, (20, 24, 3)),
            random.integers(90, 140, (20, 24, 3)),
            np.where(random.random((20, 24, 3)) < 0.6, 255, random.integers(0, 256, (20, 24, 3))),
            np.stack([ramp, 255 - ramp, ramp // 2 + 60], axis=-1),
            np.full((20, 24, 3), (7, 100, 255)),
        ]
    ).astype("uint8")


def moved(image, matrix):
    """By PIL, whose coordinates are those of corners of pixels, while `matrix` is about their centres."""
    a, b, c, d, e, f = matrix
    shifted = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    return image.transform(image.size, Image.AFFINE, shifted, Image.NEAREST, fillcolor=(128, 128, 128))


def added_below_128(image, addition):
    pixels = np.asarray(image).astype(int)
    return np.where(pixels < 128, np.minimum(pixels + addition, 255), pixels)


# Argument, what PIL makes of it, and by how many of 255 levels it may differ: PIL rounds to whole ones on its way.
PIL = {
    "Identity": (0.0, lambda image, _: image, 0),
    "AutoContrast": (0.0, lambda image, _: ImageOps.autocontrast(image), 1),
    "Brightness": (1.72, lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), 1),
    "Color": (1.72, lambda image, factor: ImageEnhance.Color(image).enhance(factor), 1.5),
    "Contrast": (1.72, lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), 1.75),
    "Equalize": (0.0, lambda image, _: ImageOps.equalize(image), 0),
    "Invert": (0.0, lambda image, _: ImageOps.invert(image), 0),
    "Posterize": (2.0, lambda image, bits: ImageOps.posterize(image, int(bits)), 0),
    "Sharpness": (1.72, lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), 1.5),
    "ShearX": (0.27, lambda image, factor: moved(image, (1, factor, 0, 0, 1, 0)), 0),
    "ShearY": (-0.27, lambda image, factor: moved(image, (1, 0, 0, factor, 1, 0)), 0),
    "Solarize": (77.0, lambda image, threshold: ImageOps.solarize(image, int(threshold)), 0),
    "SolarizeAdd": (99.0, added_below_128, 0),
    "TranslateX": (0.25, lambda image, share: moved(image, (1, 0, -24 * share, 0, 1, 0)), 0),
    "TranslateY": (-0.25, lambda image, share: moved(image, (1, 0, 0, 0, 1, -20 * share)), 0),
}


@pytest.mark.parametrize("name", PIL)
def test_an_operation_is_pils(library, name):
    images, (argument, reference, tolerance) = pictures(), PIL[name]
    expected = np.stack([reference(Image.fromarray(image), argument) for image in images]).astype("float32")
    count = len(images)
    chosen = tf.fill([count], operations.NAMES.index(name))
    found = operations.apply(
        tf.cast(images, "float32"), chosen, tf.fill([count], argument), tf.zeros([count, 2])
    ).numpy()
    assert np.abs(found - expected).max() <= tolerance
    if name != "Identity":
        assert (expected != images).mean() > 0.2


@pytest.mark.parametrize("degrees", [30.0, -12.0])
def test_rotation_is_pils_but_for_pixels_between_two(library, degrees):
    images = pictures()
    expected = [Image.fromarray(i).rotate(degrees, fillcolor=(128, 128, 128)) for i in images]
    found = layers.rotate(tf.cast(images, "float32"), tf.fill([len(images)], degrees)).numpy()
    assert (found != np.stack(expected)).any(axis=-1).mean() < 0.01


def test_the_square_of_a_policy_is_grey_about_its_point(library):
    images, side = pictures()[:2].astype("float32"), 8 / 20
    found = operations.cutout(tf.constant(images), tf.fill([2], side), tf.constant([[0.51, 0.26], [0.0, 0.99]])).numpy()
    for image, before, center in zip(found, images, [(10, 6), (0, 23)]):
        np.testing.assert_array_equal(image, np.where(square(*center, 8, (20, 24))[..., None], 128, before))


@pytest.mark.parametrize("name", ["basic+cutout", "autoaugment-cifar", "randaugment"])
def test_both_libraries_make_the_same_images_to_the_bit(name, monkeypatch):
    required("keras_cv")
    images, chosen, found = tf.constant(np.tile(pictures(), [50, 1, 1, 1])), augmentation.named(name), []
    for library in ("keras_cv", "keras"):
        use(library, monkeypatch)
        made = images
        for step in chosen.steps:
            made = step(made, SEED)
        found.append(augmentation.cutout(tf.cast(made, "float32"), SEED).numpy())
    np.testing.assert_array_equal(*found)
    assert (found[0] != images.numpy()).mean() > 0.2


def test_every_image_of_a_batch_has_its_own_operation_and_argument(library):
    image = pictures()[0]
    names = [*PIL, "Brightness"]
    arguments = tf.constant([argument for argument, *_ in PIL.values()] + [0.5], "float32")
    order = np.random.default_rng(0).permutation(len(names))
    found = operations.apply(
        tf.cast(np.tile(image, [len(names), 1, 1, 1]), "float32"),
        tf.constant([operations.NAMES.index(names[i]) for i in order]),
        tf.gather(arguments, order),
        tf.zeros([len(names), 2]),
    )
    for i, picture in zip(order, found.numpy()):
        _, reference, tolerance = PIL[names[i]]
        expected = np.asarray(reference(Image.fromarray(image), float(arguments[i]))).astype("float32")
        assert np.abs(picture - expected).max() <= tolerance, names[i]


def test_operations_happen_with_their_probability_in_their_order_with_either_sign():
    image = np.zeros((8, 8, 3), "float32")
    image[:, 3] = 101
    step = augmentation.policy(
        [[("Solarize", 1.0, 90.0), ("Brightness", 0.25, 0.5)], [("TranslateX", 0.6, 0.25), ("Invert", 0.0, 0.0)]]
    )
    made = step(np.tile(image, [4000, 1, 1, 1]), SEED).numpy()
    solarized, right, left = np.where(image == 101, 154.0, 0.0), np.roll(image, 2, 1), np.roll(image, -2, 1)
    right[:, :2] = left[:, -2:] = 128
    expected = {
        "solarized": (solarized, 0.5 * 0.75),
        "solarized, then darker": (solarized / 2, 0.5 * 0.25),
        "unchanged": (image, 0.5 * 0.4),
        "right": (right, 0.5 * 0.3),
        "left": (left, 0.5 * 0.3),
    }
    counts = {name: (made == picture).all(axis=(1, 2, 3)).sum() for name, (picture, _) in expected.items()}
    assert sum(counts.values()) == 4000
    for name, (_, probability) in expected.items():
        assert near(counts[name], 4000, probability), name


def test_the_policies_are_the_published_ones():
    assert [len(p) for p in (policies.CIFAR, policies.SVHN, policies.IMAGENET)] == [95, 25, 25]
    assert policies.CIFAR[0] == [("Invert", 0.1, 0.0), ("Contrast", 0.2, pytest.approx(1.18))]
    assert policies.CIFAR[1] == [("Rotate", 0.7, 6.0), ("TranslateX", 0.3, 9 / 32)]
    assert policies.SVHN[-1] == [("ShearX", 0.7, 0.06), ("Invert", 0.1, 0.0)]
    assert policies.IMAGENET[0] == [("Equalize", 0.8, 0.0), ("ShearY", 0.8, 0.12)]
    names = Counter(name for pair in policies.CIFAR for name, _, _ in pair)
    assert names.most_common(4) == [("Equalize", 40), ("AutoContrast", 35), ("Solarize", 24), ("TranslateY", 23)]
    sums = [
        sum(p for pair in policy for _, p, _ in pair) for policy in (policies.CIFAR, policies.SVHN, policies.IMAGENET)
    ]
    np.testing.assert_allclose(sums, [90.2, 32.9, 29.8])
    by_level = [policies._small_argument(*pair) for pair in [("Posterize", 7), ("Solarize", 2), ("Cutout", 4)]]
    assert by_level == [2, 205, 8 / 32]


def test_randaugment_is_any_two_of_16_operations_at_magnitude_9():
    assert len(policies.RANDAUGMENT) == 16**2
    first = {name: argument for (name, probability, argument), _ in policies.RANDAUGMENT if probability == 1}
    assert first == {
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), 0.0),
        **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), pytest.approx(1.72)),
        **dict.fromkeys(("ShearX", "ShearY"), 0.27),
        **dict.fromkeys(("TranslateX", "TranslateY"), 90 / 224),
        **{"Rotate": 27.0, "Posterize": 3, "Solarize": 230, "SolarizeAdd": 99, "Cutout": 72 / 224},
    }


def labelled(count):
    """Images of one value, the number of their class."""
    images = tf.tile(tf.reshape(tf.range(count, dtype="float32"), [-1, 1, 1, 1]), [1, 6, 8, 3])
    return images, tf.one_hot(tf.range(count), count)


@pytest.mark.parametrize("alpha", [1.0, 8.0])
def test_mixup_mixes_images_and_labels_by_one_weight_that_is_beta(alpha):
    images, labels = (t.numpy() for t in augmentation.mixup(*labelled(1000), SEED, alpha))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-5)
    assert (np.count_nonzero(labels, axis=1) <= 2).all()
    np.testing.assert_allclose(
        images.reshape(1000, -1), np.tile(labels @ np.arange(1000)[:, None], [1, 144]), rtol=1e-4
    )
    own = np.diag(labels)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(own.mean() - 0.5) < 5 * np.sqrt(variance / 1000)
    assert own.var() == pytest.approx(variance, rel=0.2)
    # Each image is another's partner once.
    np.testing.assert_allclose((labels - np.diag(own)).astype(bool).sum(axis=0).max(), 1)


def test_cutmix_fills_a_box_and_its_share_is_in_the_label():
    images, labels = (t.numpy() for t in augmentation.cutmix(*labelled(500), SEED))
    for i, (image, label) in enumerate(zip(images[..., 0], labels)):
        box = image != i
        assert label[i] == pytest.approx(1 - box.mean(), abs=1e-6) or len(np.unique(image)) == 1
        if box.any():
            rows, columns = box.any(axis=1), box.any(axis=0)
            assert box.sum() == rows.sum() * columns.sum()
            assert label[int(image[box][0])] == pytest.approx(box.mean(), abs=1e-6)
            assert np.ptp(np.flatnonzero(rows)) + 1 == rows.sum()
    # Drawn here: the sides of a box of a uniform area, in whole pixels, about any pixel, cut off by the border.
    random, share = np.random.default_rng(0), []
    for _ in range(4000):
        sides = (np.sqrt(random.random()) * np.array([6, 8])).astype(int)
        share.append(square_of(random.integers(0, [6, 8]), sides).mean())
    found = [1 - label[i] for i, label in enumerate(labels)]
    assert abs(np.mean(found) - np.mean(share)) < 5 * np.std(share) / np.sqrt(500)


def square_of(center, sides):
    inside = [(np.arange(n) >= c - s // 2) & (np.arange(n) < c - s // 2 + s) for n, c, s in zip((6, 8), center, sides)]
    return np.outer(*inside)


def png(image):
    return tf.io.encode_png(tf.constant(image, "uint8"))


def test_a_random_crop_is_8_to_100_percent_of_the_area_and_not_too_narrow():
    """Two channels say where a pixel comes from."""
    y, x = np.mgrid[:100, :140]
    contents = png(np.stack([y, x, 0 * x], axis=-1))
    seeds = tf.random.experimental.stateless_split(SEED, 200)
    crops = np.stack([encoded.random_crop(contents, seed, 50).numpy() for seed in seeds])
    # From the first pixel's middle to the last one's are 49 of the 50 parts of a side.
    height, width = (np.ptp(crops[..., channel], axis=(1, 2)) * 50 / 49 for channel in (0, 1))
    area = height * width / 14000
    assert 0.07 < area.min() < 0.12
    assert 0.85 < area.max() < 1.02
    assert np.ptp(crops[..., 0].min(axis=(1, 2))) > 50  # anywhere
    aspect = width / height
    assert 0.70 < aspect.min() < 0.85
    assert 1.2 < aspect.max() < 1.45


def test_the_central_crop_is_pils():
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (6, 8, 3), "uint8")).resize((64, 48), Image.BICUBIC)
    side = 36  # 96 / 128 of 48
    box = ((64 - side) // 2, (48 - side) // 2, (64 + side) // 2, (48 + side) // 2)
    expected = np.asarray(image.crop(box).resize((96, 96), Image.BICUBIC)).astype("float32")
    found = encoded.central_crop(png(image), 96).numpy()
    # PIL rounds between rows and columns, and cuts off the kernel at the border.
    assert np.abs(found - expected)[2:-2, 2:-2].max() <= 2


def test_edges_do_not_overshoot_black_and_white():
    checkerboard = np.indices((24, 24)).sum(axis=0)[..., None].repeat(3, axis=2) // 4 % 2 * 255
    for found in (encoded.central_crop(png(checkerboard), 48), encoded.random_crop(png(checkerboard), SEED, 48)):
        assert (found.numpy().min(), found.numpy().max()) == (0, 255)


def test_grey_files_and_jpeg_become_three_channels():
    grey = np.tile(np.arange(200, dtype="uint8")[:, None, None], [1, 150, 1])
    for contents in (tf.io.encode_png(grey), tf.io.encode_jpeg(grey)):
        assert encoded.central_crop(contents, 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augmentation.named("basic+cutuot"), r"augmentation='basic\+cutuot'.*Did you mean 'basic\+cutout'\?"),
        (lambda: augmentation.cutout(tf.zeros([2, 8, 8, 1]), SEED), "images of 8 by 8 pixels"),
        (lambda: augmentation.policy(policies.SVHN)(tf.zeros([2, 8, 8, 1]), SEED), "images with 1 channels"),
    ],
)
def test_what_cannot_be_augmented_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call()
