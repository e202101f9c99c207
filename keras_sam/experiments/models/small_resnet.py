"""A pre-activation ResNet-8, small enough to train on a processor."""

import keras
from keras import layers


def small_resnet(cls, input_shape, num_classes, weight_decay=0.0, width=16):
    """He et al., 2016 (Identity mappings), with one block a stage and a stem of stride 2: 78k parameters.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        weight_decay: Float, `½ weight_decay Σ w²` is added to the loss for kernels. Defaults to `0.0`.
        width: Int, the channels of the first of three stages, doubled twice. Defaults to `16`.

    Returns:
        A model of class `cls`, not compiled.
    """
    options = {"kernel_regularizer": keras.regularizers.L2(weight_decay / 2) if weight_decay else None}

    def conv(x, filters, size, strides):
        return layers.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal", **options)(
            x
        )

    def activated(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))

    inputs = keras.Input(input_shape)
    x = conv(inputs, width, 3, 2)
    for stage in range(3):
        filters, strides = width * 2**stage, 2 if stage else 1
        y = activated(x)
        shortcut = x if x.shape[-1] == filters else conv(y, filters, 1, strides)
        x = layers.Add()([shortcut, conv(activated(conv(y, filters, 3, strides)), filters, 3, 1)])
    return cls(inputs, layers.Dense(num_classes, **options)(layers.GlobalAveragePooling2D()(activated(x))))
