"""Wide residual networks, with BatchNormalization or without."""

import keras
from keras import layers

from keras_sam.experiments.models.blocks import activated, blocks_per_stage, conv, logits


def wide_resnet(cls, input_shape, num_classes, depth=28, width=10, normalize=True):
    """WRN-depth-width: three stages of pre-activation blocks, with 1×1 convolutions where the channels change.

    The paper's own code pads such shortcuts with zeros instead, as AutoAugment's does: 0.7 % fewer parameters
    in WRN-28-10 than Zagoruyko and Komodakis published.

    Without BatchNormalization the convolutions have biases, and begin as in Fixup: the last one of each block and the
    last layer at zero, the first one of each block smaller by the root of the number of blocks, so that a step of
    SGD changes the logits equally at any depth. Fixup's scalar multipliers are left out.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        depth: Int, the number of layers, 6 n + 4. Defaults to `28`.
        width: Int, what the 16, 32 and 64 channels of the stages are multiplied by. Defaults to `10`.
        normalize: Boolean, whether BatchNormalization precedes each ReLU, or nothing. Defaults to `True`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [Zagoruyko and Komodakis, 2016](https://arxiv.org/abs/1605.07146); without normalization
    [Zhang et al., 2019](https://arxiv.org/abs/1901.09321), rules 1 and 2.
    """
    blocks = blocks_per_stage(depth, 6, 4, "wide ResNet")
    if normalize:
        plain = first = last = {}
        active = activated
    else:
        plain = {"use_bias": True, "kernel_initializer": "he_normal"}
        first = {"use_bias": True, "kernel_initializer": keras.initializers.VarianceScaling(2 / (3 * blocks))}
        last = {"use_bias": True, "kernel_initializer": "zeros"}
        active = layers.ReLU()
    inputs = keras.Input(input_shape)
    x = conv(inputs, 16, **plain)
    for stage in range(3):
        for block in range(blocks):
            filters, strides = 16 * width * 2**stage, 2 if stage and not block else 1
            y = active(x)
            shortcut = x if x.shape[-1] == filters else conv(y, filters, 1, strides, **plain)
            y = conv(active(conv(y, filters, 3, strides, **first)), filters, **last)
            x = layers.Add()([shortcut, y])
    return cls(inputs, logits(active(x), num_classes, None if normalize else "zeros"))
