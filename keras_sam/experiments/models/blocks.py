"""What the residual networks are made of, initialized as in the paper's own code."""

import keras
from keras import layers, ops


def conv(x, filters, size=3, strides=1, **options):
    """A convolution without bias, from a normal distribution of variance 2 / (size² filters) (He et al., 2015)."""
    defaults = {
        "padding": "same",
        "use_bias": False,
        "kernel_initializer": keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    }
    return layers.Conv2D(filters, size, strides, **{**defaults, **options})(x)


def normalized(x, **options):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)(x)


def activated(x):
    return layers.ReLU()(normalized(x))


def subsampled(x, strides):
    """Every `strides`-th pixel."""
    return x if strides == 1 else layers.AveragePooling2D(1, strides)(x)


def widened(x, filters):
    """Channels of zeros added, up to `filters`."""
    extra = filters - x.shape[-1]
    return x if extra == 0 else ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra)))


def logits(x, num_classes, kernel_initializer=None):
    """The mean over the image, then the last layer, uniform in ± 1/√num_classes unless an initializer is given."""
    limit = num_classes**-0.5
    initializer = kernel_initializer or keras.initializers.RandomUniform(-limit, limit)
    return layers.Dense(num_classes, kernel_initializer=initializer)(layers.GlobalAveragePooling2D()(x))


def blocks_per_stage(depth, layers_per_stage, others, name):
    """The number of blocks in each stage of a network of `depth = others + layers_per_stage * blocks` layers."""
    blocks, rest = divmod(depth - others, layers_per_stage)
    if rest or blocks < 1:
        raise ValueError(
            f"`depth={depth}` is no depth of a {name}; expected {layers_per_stage} n + {others}, "
            f"such as {layers_per_stage + others} or {2 * layers_per_stage + others}."
        )
    return blocks
