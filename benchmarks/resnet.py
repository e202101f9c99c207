"""ResNet-20 for CIFAR in Keras layers, the model whose training step the benchmarks time."""

import keras
from keras import layers


def resnet(depth=20, width=16, image_size=32, num_classes=10):
    """The CIFAR ResNet of He et al., 2016, section 4.2: three stages of (depth − 2) / 6 blocks.

    Args:
        depth: Integer, 6n + 2. Defaults to `20`.
        width: Integer, the channels of the first stage, doubled twice. Defaults to `16`.
        image_size: Integer, the height and width of the images, which have 3 channels. Defaults to `32`.
        num_classes: Integer, the number of logits. Defaults to `10`.

    Returns:
        A `keras.Model` from images to logits, not compiled.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Received `depth={depth}`; expected 6n + 2, such as 8, 20 or 56.")
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.ReLU()(_conv(inputs, width, 3, 1))
    for stage in range(3):
        for block in range((depth - 2) // 6):
            x = _block(x, width * 2**stage, strides=2 if stage and not block else 1)
    outputs = layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name=f"resnet{depth}")


def _block(x, filters, strides):
    y = layers.ReLU()(_conv(x, filters, 3, strides))
    y = _conv(y, filters, 3, 1)
    shortcut = x if x.shape[-1] == filters else _conv(x, filters, 1, strides)
    return layers.ReLU()(layers.Add()([y, shortcut]))


def _conv(x, filters, kernel_size, strides):
    x = layers.Conv2D(filters, kernel_size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.BatchNormalization()(x)
