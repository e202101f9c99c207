"""Three convolutions, with BatchNormalization or without, for images of a few pixels."""

import keras
from keras import layers


def small_cnn(cls, input_shape, num_classes, weight_decay=0.0, width=16, normalize=True):
    """A network that can memorise a thousand images, wrong labels included.

    Args:
        cls: `keras.Model` or `keras_sam.SAMModel`.
        input_shape: Shape of one image, `(height, width, channels)`.
        num_classes: Int, the number of logits.
        weight_decay: Float, `½ weight_decay Σ w²` is added to the loss for kernels. Defaults to `0.0`.
        width: Int, the filters of each convolution. Defaults to `16`.
        normalize: Boolean, whether BatchNormalization follows each convolution, or nothing. Defaults to `True`.

    Returns:
        A model of class `cls`, not compiled.
    """
    options = {"kernel_regularizer": keras.regularizers.L2(weight_decay / 2) if weight_decay else None}
    x = inputs = keras.Input(input_shape)
    for _ in range(3):
        x = layers.Conv2D(width, 3, padding="same", use_bias=not normalize, **options)(x)
        if normalize:
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        x = layers.ReLU()(x)
    return cls(inputs, layers.Dense(num_classes, **options)(layers.GlobalAveragePooling2D()(x)))
