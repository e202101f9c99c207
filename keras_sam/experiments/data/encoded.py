"""Images as they come in files, of any size: decoded, cut and scaled to one size as in ImageNet's recipes."""

import tensorflow as tf

# A central crop leaves out so many pixels at 224, and in proportion at other sizes.
MARGIN = 32


def each(cut, contents, size, seed=None):
    """A batch of images from a batch of files' contents, by `random_crop` with a seed or `central_crop` without."""
    arguments = (contents,)
    if seed is not None:
        arguments += (tf.random.experimental.stateless_split(seed, tf.size(contents)),)
    images = tf.map_fn(lambda one: cut(*one, size=size), arguments, fn_output_signature="float32")
    return tf.ensure_shape(images, [contents.shape[0], size, size, 3])


def random_crop(contents, seed, size):
    """A random part, of 8 to 100 % of the area and a shape from 3:4 to 4:3, scaled to a square.

    TensorFlow draws the height uniformly, and not the area; so does the reference implementation.

    Reference: [Szegedy et al., 2015](https://arxiv.org/abs/1409.4842), section 6.
    """
    image = decoded(contents)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
    )
    return _pixels(tf.slice(image, begin, extent), size)


def central_crop(contents, size):
    """The middle of an image, a square, scaled."""
    image = decoded(contents)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.cast(size / (size + MARGIN) * tf.cast(tf.minimum(height, width), "float32"), "int32")
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return _pixels(image[top : top + side, left : left + side], size)


def _pixels(image, size):
    """Scaled, without the values beyond black and white that bicubic interpolation makes at edges."""
    return tf.clip_by_value(resized(image, size), 0.0, 255.0)


def decoded(contents):
    """The pixels of a JPEG, PNG, GIF or BMP file, uint8 with three channels."""
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def resized(images, size):
    """Scaled to a square by bicubic interpolation, or as they are if `size` is `None` or theirs."""
    if size is None or images.shape[-3:-1] == (size, size):
        return images
    return tf.image.resize(images, [size, size], "bicubic")
