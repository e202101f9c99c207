"""The residual networks of He et al. for images of 32 pixels, with skip connections or without."""

import keras
from keras import layers

from keras_sam.experiments.models.blocks import (
    activated,
    blocks_per_stage,
    conv,
    logits,
    normalized,
    subsampled,
    widened,
)


def cifar_resnet(cls, input_shape, num_classes, depth=32, width=16, skips=True):
    """ResNet-20, -32, -44, -56, -110 with shortcuts that have no parameters: subsampled, padded with zeros.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        depth: Int, the number of layers, 6 n + 2. Defaults to `32`.
        width: Int, the channels of the first of three stages, doubled twice. Defaults to `16`.
        skips: Boolean, whether blocks have shortcuts. Figure 1 of the SAM paper shows ResNet-56 without, as Li et al.
            made it. Defaults to `True`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [He et al., 2015](https://arxiv.org/abs/1512.03385), section 4.2, option A;
    [Li et al., 2018](https://arxiv.org/abs/1712.09913).
    """
    blocks = blocks_per_stage(depth, 6, 2, "ResNet for CIFAR")
    inputs = keras.Input(input_shape)
    x = activated(conv(inputs, width))
    for stage in range(3):
        for block in range(blocks):
            filters, strides = width * 2**stage, 2 if stage and not block else 1
            y = normalized(conv(activated(conv(x, filters, 3, strides)), filters))
            if skips:
                y = layers.Add()([widened(subsampled(x, strides), filters), y])
            x = layers.ReLU()(y)
    return cls(inputs, logits(x, num_classes))
