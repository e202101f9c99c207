"""PyramidNet: residual networks that widen a little with every block, with ShakeDrop or without."""

import keras
from keras import layers

from keras_sam.experiments.models.blocks import activated, blocks_per_stage, conv, logits, normalized, widened
from keras_sam.experiments.models.shake import ShakeDrop


def pyramid_net(cls, input_shape, num_classes, depth=272, alpha=200, shake_drop=True):
    """PyramidNet of bottleneck blocks, whose width grows evenly from 16 to 16 + alpha, rounded down as published.

    The paper's own code rounds to the nearest integer instead: 0.7 % more parameters in PyramidNet-272.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        depth: Int, the number of layers, 9 n + 2. Defaults to `272`.
        alpha: Int, by how much the bottleneck widens from the first block to the last. Defaults to `200`.
        shake_drop: Boolean, whether ShakeDrop ends each block; its probability of leaving a block as it is falls
            evenly to 0.5. Defaults to `True`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [Han et al., 2016](https://arxiv.org/abs/1610.02915), additive, eq. 2;
    [Yamada et al., 2018](https://arxiv.org/abs/1802.02375).
    """
    blocks = blocks_per_stage(depth, 9, 2, "PyramidNet")
    inputs = keras.Input(input_shape)
    x = normalized(conv(inputs, 16))
    for block in range(3 * blocks):
        share = (block + 1) / (3 * blocks)
        filters, strides = 16 + alpha * (block + 1) // (3 * blocks), 2 if block in (blocks, 2 * blocks) else 1
        y = activated(conv(normalized(x), filters, 1))
        y = normalized(conv(activated(conv(y, filters, 3, strides)), 4 * filters, 1))
        if shake_drop:
            y = ShakeDrop(1 - 0.5 * share)(y)
        shortcut = x if strides == 1 else layers.AveragePooling2D(strides, padding="same")(x)
        x = layers.Add()([widened(shortcut, 4 * filters), y])
    return cls(inputs, logits(activated(x), num_classes))
