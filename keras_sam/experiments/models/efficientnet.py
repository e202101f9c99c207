"""EfficientNet-B0 to B7 and L2, to train or to fine-tune."""

from typing import NamedTuple

import keras
from keras import layers

from keras_sam.experiments.models import mobile

# Red, green, blue of ImageNet, in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Scale(NamedTuple):
    """What B0 is multiplied by, and the dropout before the last layer."""

    width: float
    depth: float
    dropout: float


SCALES = {
    "b0": Scale(1.0, 1.0, 0.2),
    "b1": Scale(1.0, 1.1, 0.2),
    "b2": Scale(1.1, 1.2, 0.3),
    "b3": Scale(1.2, 1.4, 0.3),
    "b4": Scale(1.4, 1.8, 0.4),
    "b5": Scale(1.6, 2.2, 0.4),
    "b6": Scale(1.8, 2.6, 0.5),
    "b7": Scale(2.0, 3.1, 0.5),
    "l2": Scale(4.3, 5.3, 0.5),
}


def efficientnet(cls, input_shape, num_classes, scale="b0", weights=None, new_head=True):
    """EfficientNet for images of three channels in [0, 255], which it standardizes itself.

    B0 to B7 are those of `keras.applications`. L2 and other scales, which Keras does not offer, are built of Keras
    layers; at the scale of B0 the two are the same network.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, 3)`.
        num_classes: Int, the number of logits.
        scale: One of `SCALES`, or a `Scale`. Defaults to `"b0"`.
        weights: `"imagenet"`, which Keras downloads, or the path of a file of weights: for B0 to B7 one of
            `keras.applications`, for others what `save_weights` of this network wrote. Defaults to `None`, random
            weights.
        new_head: Boolean, whether the weights are those of a network without its last layer, which starts anew.
            Defaults to `True`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [Tan and Le, 2019](https://arxiv.org/abs/1905.11946); for L2
    [Xie et al., 2019](https://arxiv.org/abs/1911.04252), appendix A.1.
    """
    width, depth, dropout = SCALES[scale] if isinstance(scale, str) else scale
    if isinstance(scale, str) and scale != "l2":
        return _of_keras(cls, input_shape, num_classes, scale, weights, new_head)
    inputs = keras.Input(input_shape)
    x = layers.Rescaling([1 / (255 * d) for d in DEVIATION], [-m / d for m, d in zip(MEAN, DEVIATION)])(inputs)
    features = mobile.body(x, width, depth, "swish", squeeze=True)
    outputs = mobile.head(features, num_classes, dropout, pretrained=weights is not None)
    if weights is not None:
        keras.Model(inputs, features if new_head else outputs).load_weights(weights)
    return cls(inputs, outputs)


def _of_keras(cls, input_shape, num_classes, scale, weights, new_head):
    constructor = getattr(keras.applications, f"EfficientNet{scale.upper()}")
    model = constructor(
        include_top=not new_head,
        weights=weights,
        input_shape=input_shape,
        classes=num_classes,
        classifier_activation=None,
    )
    if weights != "imagenet":
        _standardize(model)
    outputs = model.output
    if new_head:
        outputs = mobile.head(outputs, num_classes, SCALES[scale].dropout, pretrained=weights is not None)
    return cls(model.input, outputs)


def _standardize(model):
    """Keras does so for `weights="imagenet"` alone; the statistics in its files need a factor that it then adds."""
    normalization = next(layer for layer in model.layers if isinstance(layer, layers.Normalization))
    normalization.load_own_variables({"0": MEAN, "1": [d**2 for d in DEVIATION], "2": 0})
