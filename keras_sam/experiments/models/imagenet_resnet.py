"""ResNet-50, -101 and -152 for ImageNet."""

import keras
from keras import layers

from keras_sam.experiments.models.blocks import activated, conv, logits, normalized


def imagenet_resnet(cls, input_shape, num_classes, stages=(3, 4, 6, 3), width=64):
    """ResNet v1.5: bottleneck blocks whose 3×3 convolution has the strides, as in the paper's own code.

    `keras.applications.ResNet50` is another network: strides in the 1×1 convolution, biases on all convolutions, and
    a BatchNormalization that forgets ten times as slowly. The last scale of each block begins at zero.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        stages: Tuple of ints, the number of blocks in each stage. Defaults to `(3, 4, 6, 3)`, ResNet-50.
        width: Int, the channels of the first stage's bottlenecks, doubled with each stage. Defaults to `64`.

    Returns:
        A model of class `cls`, not compiled.

    Reference: [He et al., 2015](https://arxiv.org/abs/1512.03385); initialized as in
    [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 5.1.
    """
    inputs = keras.Input(input_shape)
    x = activated(conv(layers.ZeroPadding2D(3)(inputs), width, 7, 2, padding="valid"))
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            filters, strides = width * 2**stage, 2 if stage and not block else 1
            y = activated(conv(activated(conv(x, filters, 1)), filters, 3, strides))
            y = normalized(conv(y, 4 * filters, 1), gamma_initializer="zeros")
            shortcut = x if block else normalized(conv(x, 4 * filters, 1, strides))
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    return cls(inputs, logits(x, num_classes, keras.initializers.RandomNormal(stddev=0.01)))
