"""Inverted bottlenecks: the body of EfficientNet and EfficientNet-Lite, at any width and depth."""

import math
from typing import NamedTuple

import keras
from keras import layers


class Stage(NamedTuple):
    """Blocks of one kind in EfficientNet-B0."""

    size: int
    repeats: int
    filters: int
    expansion: int
    strides: int


STAGES = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 6, 2),
    Stage(5, 2, 40, 6, 2),
    Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),
    Stage(3, 1, 320, 6, 1),
)


def body(x, width, depth, activation, squeeze, drop_rate=0.2):
    """EfficientNet between its input and its head.

    Args:
        x: Keras tensor, the standardized images.
        width: Float, what the channels of B0 are multiplied by, then rounded to multiples of 8.
        depth: Float, what the repetitions of B0's blocks are multiplied by, then rounded up.
        activation: String, `"swish"` or `"relu6"`.
        squeeze: Boolean, whether blocks have squeeze-and-excitation.
        drop_rate: Float, how likely the last block is left out in training, others less. Defaults to `0.2`.

    Returns:
        Keras tensor of shape `(batch, height, width, channels)`.
    """
    x = _convolved(x, scaled(32, width), 3, 2, activation)
    blocks = [(stage, i) for stage in STAGES for i in range(math.ceil(depth * stage.repeats))]
    for index, (stage, repetition) in enumerate(blocks):
        strides = 1 if repetition else stage.strides
        filters = scaled(stage.filters, width)
        y = _block(x, stage, filters, strides, activation, squeeze)
        if strides == 1 and x.shape[-1] == filters:
            y = layers.Dropout(drop_rate * index / len(blocks), noise_shape=(None, 1, 1, 1))(y)
            y = layers.Add()([y, x])
        x = y
    return _convolved(x, scaled(1280, width), 1, 1, activation)


def head(x, num_classes, dropout, pretrained=False):
    """The logits.

    On pretrained features they begin at zero: for a few classes EfficientNet's initializer makes them large, and with
    them the first gradients, which change the features most.
    """
    initializer = "zeros" if pretrained else _variance(1 / 3, "uniform")
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return layers.Dense(num_classes, kernel_initializer=initializer)(x)


def scaled(filters, width):
    """Multiples of 8, never more than a tenth too few."""
    rounded = max(8, int(filters * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters * width else rounded


def _block(x, stage, filters, strides, activation, squeeze):
    inputs = x.shape[-1]
    if stage.expansion != 1:
        x = _convolved(x, inputs * stage.expansion, 1, 1, activation)
    x = layers.DepthwiseConv2D(
        stage.size, strides, "same", use_bias=False, depthwise_initializer=_variance(2.0, "truncated_normal")
    )(x)
    x = layers.Activation(activation)(layers.BatchNormalization()(x))
    if squeeze:
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = _conv(y, max(1, inputs // 4), use_bias=True, activation=activation)
        x = layers.Multiply()([x, _conv(y, x.shape[-1], use_bias=True, activation="sigmoid")])
    return layers.BatchNormalization()(_conv(x, filters))


def _convolved(x, filters, size, strides, activation):
    return layers.Activation(activation)(layers.BatchNormalization()(_conv(x, filters, size, strides)))


def _conv(x, filters, size=1, strides=1, use_bias=False, activation=None):
    initializer = _variance(2.0, "truncated_normal")
    return layers.Conv2D(
        filters, size, strides, "same", use_bias=use_bias, activation=activation, kernel_initializer=initializer
    )(x)


def _variance(scale, distribution):
    return keras.initializers.VarianceScaling(scale, "fan_out", distribution)
