"""Shake-Shake: residual networks of two branches that are mixed at random."""

import keras
from keras import layers

from keras_sam.experiments.models.blocks import activated, blocks_per_stage, conv, logits, normalized, subsampled
from keras_sam.experiments.models.shake import ShakeShake


def shake_shake(cls, input_shape, num_classes, depth=26, width=96):
    """ResNet-depth 2×width-d with Shake-Shake-Image; the paper's WRN-26-2x6 is 26 2x96d.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        depth: Int, the number of layers, 6 n + 2. Defaults to `26`.
        width: Even int, the channels of the first of three stages, doubled twice. Defaults to `96`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [Gastaldi, 2017](https://arxiv.org/abs/1705.07485).
    """
    blocks = blocks_per_stage(depth, 6, 2, "Shake-Shake network")
    inputs = keras.Input(input_shape)
    x = normalized(conv(inputs, 16))
    for stage in range(3):
        for block in range(blocks):
            filters, strides = width * 2**stage, 2 if stage and not block else 1
            active = layers.ReLU()(x)
            branches = [normalized(conv(activated(conv(active, filters, 3, strides)), filters)) for _ in range(2)]
            shortcut = x if x.shape[-1] == filters else _shortcut(active, filters, strides)
            x = layers.Add()([shortcut, ShakeShake()(branches)])
    return cls(inputs, logits(layers.ReLU()(x), num_classes))


def _shortcut(x, filters, strides):
    """More channels, half of which see each pixel's neighbour to the lower right."""
    neighbours = layers.ZeroPadding2D(((0, 1), (0, 1)))(layers.Cropping2D(((1, 0), (1, 0)))(x))
    halves = [conv(subsampled(pixels, strides), filters // 2, 1) for pixels in (x, neighbours)]
    return normalized(layers.Concatenate()(halves))
