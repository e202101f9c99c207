"""The networks whose training steps the benchmarks time, in layers of Keras 3 or of its predecessor."""

import keras


def resnet(depth=20, width=16, image_size=32, num_classes=10, library=keras):
    """The CIFAR ResNet of He et al., 2016, section 4.2: three stages of (depth − 2) / 6 blocks.

    Args:
        depth: Integer, 6n + 2. Defaults to `20`.
        width: Integer, the channels of the first stage, doubled twice. Defaults to `16`.
        image_size: Integer, the height and width of the images, which have 3 channels. Defaults to `32`.
        num_classes: Integer, the number of logits. Defaults to `10`.
        library: `keras`, or `tf_keras`. Defaults to `keras`.

    Returns:
        A `keras.Model` from images to logits, not compiled.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"Received `depth={depth}`; expected 6n + 2, such as 8, 20 or 56.")
    layers = library.layers
    inputs = _images(image_size, library)
    x = layers.ReLU()(_normalized(_conv(inputs, width, 3, 1, library), library))
    for stage in range(3):
        for block in range((depth - 2) // 6):
            x = _block(x, width * 2**stage, 2 if stage and not block else 1, library)
    outputs = layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x))
    return library.Model(inputs, outputs, name=f"resnet{depth}")


def wide_resnet(depth=16, width=4, image_size=32, num_classes=10, library=keras):
    """WRN-depth-width of Zagoruyko and Komodakis, 2016: three stages of (depth − 4) / 6 pre-activation blocks.

    Args:
        depth: Integer, 6n + 4. Defaults to `16`.
        width: Integer, what the 16, 32 and 64 channels of the stages are multiplied by. Defaults to `4`.
        image_size: As in `resnet`, like the other arguments.

    Returns:
        A `keras.Model` from images to logits, not compiled.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"Received `depth={depth}`; expected 6n + 4, such as 10, 16 or 28.")
    layers = library.layers
    inputs = _images(image_size, library)
    x = _conv(inputs, 16, 3, 1, library)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            filters, strides = 16 * width * 2**stage, 2 if stage and not block else 1
            y = layers.ReLU()(_normalized(x, library))
            shortcut = x if _channels(x, library) == filters else _conv(y, filters, 1, strides, library)
            y = layers.ReLU()(_normalized(_conv(y, filters, 3, strides, library), library))
            x = layers.Add()([shortcut, _conv(y, filters, 3, 1, library)])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(_normalized(x, library)))
    return library.Model(inputs, layers.Dense(num_classes)(x), name=f"wrn{depth}_{width}")


def channels_axis(library=keras):
    return 1 if library.backend.image_data_format() == "channels_first" else -1


def _images(size, library):
    return library.Input((3, size, size) if channels_axis(library) == 1 else (size, size, 3))


def _channels(x, library):
    return x.shape[channels_axis(library)]


def _block(x, filters, strides, library):
    layers = library.layers
    y = layers.ReLU()(_normalized(_conv(x, filters, 3, strides, library), library))
    y = _normalized(_conv(y, filters, 3, 1, library), library)
    unchanged = _channels(x, library) == filters
    shortcut = x if unchanged else _normalized(_conv(x, filters, 1, strides, library), library)
    return layers.ReLU()(layers.Add()([y, shortcut]))


def _conv(x, filters, size, strides, library):
    options = {"use_bias": False, "kernel_initializer": "he_normal"}
    return library.layers.Conv2D(filters, size, strides, "same", **options)(x)


def _normalized(x, library):
    return library.layers.BatchNormalization(axis=channels_axis(library))(x)
