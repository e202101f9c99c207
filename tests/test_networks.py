"""The paper's networks: their sizes, and that they are saved, loaded and compiled."""

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers
from oracle import to_numpy

import keras_sam
from keras_sam.experiments.models import NETWORKS, blocks
from keras_sam.experiments.models.wide_resnet import wide_resnet

CHEAP = ["wrn-40-2", "resnet-32", "resnet-56"]
EXPENSIVE = [name for name, network in NETWORKS.items() if network.parameters and name not in CHEAP]
ARCHITECTURES = [
    "wrn-28-10",
    "wrn-40-10-no-bn",
    "resnet-32",
    "shake-shake-26-2x96d",
    "pyramidnet-272-shakedrop",
    "resnet-50",
    "efficientnet-b7",
    "efficientnet-lite0",
]
if BACKEND == "jax":
    # JAX compiles every shape on its own: there only what has layers or operations that are not Keras's.
    ARCHITECTURES = ["resnet-32", "shake-shake-26-2x96d", "pyramidnet-272-shakedrop"]
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="says nothing about backends, and takes long")


def build(name, cls=keras.Model, shape=(16, 16, 3), num_classes=7):
    network = NETWORKS[name]
    return network.build(cls, shape, num_classes, **{**network.options, **network.reduced})


def randomize(model):
    """Weights among which none is zero, as some are at the beginning; variances are positive."""
    generator = np.random.default_rng(0)
    model.set_weights([generator.uniform(0.05, 0.25, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def images(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def outputs(model, x):
    """JAX compiles a whole network faster than its operations one by one; the others need not compile it."""
    return model.predict(x, verbose=0) if BACKEND == "jax" else to_numpy(model(x))


def num_parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def assert_published_size(name):
    network = NETWORKS[name]
    keras.backend.clear_session()
    model = network.build(keras.Model, network.input_shape, network.num_classes, **network.options)
    decimals = len(network.parameters.partition(".")[2])
    print(f"{name}: {num_parameters(model):,}, published {network.parameters}M by {network.source}")
    assert f"{num_parameters(model) / 1e6:.{decimals}f}" == network.parameters


@on_tensorflow
@pytest.mark.parametrize("name", CHEAP)
def test_a_network_has_its_published_size(name):
    assert_published_size(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPENSIVE)
def test_a_large_network_has_its_published_size(name):
    assert_published_size(name)


@on_tensorflow
@pytest.mark.parametrize("normalize", [True, False])
def test_the_size_of_wrn_16_4_by_hand(normalize):
    model = wide_resnet(keras.Model, (32, 32, 3), 10, depth=16, width=4, normalize=normalize)
    channels = [(16, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    kernels = 27 * 16 + sum(9 * a * b + 9 * b * b + (a * b if a != b else 0) for a, b in channels) + 256 * 10
    scales = 2 * (sum(a + b for a, b in channels) + 256)
    biases = 16 + sum(2 * b + (b if a != b else 0) for a, b in channels)
    assert num_parameters(model) == kernels + 10 + (scales if normalize else biases)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn-28-10", {"depth": 27}, r"`depth=27` is no depth of a wide ResNet; expected 6 n \+ 4, such as 10 or 16"),
        ("resnet-32", {"depth": 2}, r"expected 6 n \+ 2, such as 8"),
        ("pyramidnet-272", {"depth": 110.5}, r"expected 9 n \+ 2"),
    ],
)
def test_a_depth_that_does_not_exist(name, options, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[name].build(keras.Model, (32, 32, 3), 10, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_saved_and_loaded(name, tmp_path):
    model = randomize(build(name))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    got, expected = (outputs(m, images(2, 16, 16, 3)) for m in (loaded, model))
    assert expected.dtype == "float32"
    assert expected.shape == (2, 7)
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(got, expected)


def test_shortcuts_without_parameters():
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, blocks.widened(blocks.subsampled(inputs, 2), 3))
    x = images(1, 4, 4, 2)
    expected = np.concatenate([x[:, ::2, ::2], np.zeros((1, 2, 2, 1))], axis=-1)
    np.testing.assert_array_equal(to_numpy(model(x)), expected)


@on_tensorflow
def test_without_normalization_a_network_begins_as_its_shortcuts():
    model = wide_resnet(keras.Model, (8, 8, 3), 10, depth=16, width=2, normalize=False)
    x = images(2, 8, 8, 3)
    np.testing.assert_array_equal(to_numpy(model(x)), np.zeros((2, 10)))
    first, second, *_ = [layer for layer in model.layers if isinstance(layer, layers.Add)]
    values = keras.Model(model.input, [first.output, second.output])(x)
    np.testing.assert_array_equal(*map(to_numpy, values))
    kernels = [to_numpy(v) for v in model.trainable_variables if v.shape == (3, 3, 128, 128)]
    deviations = sorted(kernel.std() for kernel in kernels)
    # The last kernel of both blocks of the last stage, then the first of the second; the first block's first widens.
    assert deviations[:2] == [0, 0]
    np.testing.assert_allclose(deviations[2:], [(2 / (9 * 128) / 6) ** 0.5], rtol=0.02)


@on_tensorflow
def test_a_step_compiled_by_xla_equals_the_eager_one():
    losses, weights = [], []
    for how in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(0)
        model = build("resnet-32", keras_sam.SAMModel, (8, 8, 3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, sam=keras_sam.SAM(0.05), **how)
        losses.append(model.train_on_batch(images(4, 8, 8, 3) / 255, np.arange(4)))
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-5)
