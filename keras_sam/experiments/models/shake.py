"""Shake-Shake and ShakeDrop: one random factor on the way forward, another one on the way back."""

import keras
from keras import ops

from keras_sam.rules.step import in_ascent


def shaken(x, forward, backward):
    """`forward * x`, whose gradient is `backward`; in SAM's ascent pass it is `forward` too, the true gradient."""
    if in_ascent():
        return forward * x
    return backward * x + ops.stop_gradient((forward - backward) * x)


class Shake(keras.layers.Layer):
    """What the two layers share: random numbers, one an image."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def uniform(self, count, x):
        """`count` numbers in [0, 1) an image, of one draw: how many are used must not move the generator."""
        shape = (count, ops.shape(x)[0], *(1 for _ in x.shape[1:]))
        drawn = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return [ops.cast(drawn[i], x.dtype) for i in range(count)]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("keras_sam")
class ShakeShake(Shake):
    """Mixes two branches, image by image.

    ```
    forward     alpha a + (1 - alpha) b       alpha uniform in [0, 1]
    backward    beta and 1 - beta             beta uniform in [0, 1], in SAM's ascent pass beta = alpha
    test        (a + b) / 2
    ```

    Args:
        seed: Optional int. Defaults to `None`, a random one.

    Reference: [Gastaldi, 2017](https://arxiv.org/abs/1705.07485), "Shake-Shake-Image".
    """

    def call(self, inputs, training=False):
        a, b = inputs
        if not training:
            return (a + b) / 2
        alpha, beta = self.uniform(2, a)
        return b + shaken(a - b, alpha, beta)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@keras.saving.register_keras_serializable("keras_sam")
class ShakeDrop(Shake):
    """Multiplies a branch by a random factor, image by image, or leaves it as it is.

    ```
    forward     b + alpha - b alpha    b = 1 with `probability`, else 0; alpha uniform in [-1, 1]
    backward    b + beta - b beta      beta uniform in [0, 1], in SAM's ascent pass beta = alpha
    test        probability            the mean of the forward factor
    ```

    Args:
        probability: Float, how likely the branch is left as it is.
        seed: Optional int. Defaults to `None`, a random one.

    Reference: [Yamada et al., 2018](https://arxiv.org/abs/1802.02375), eq. 6, "Image".
    """

    def __init__(self, probability, seed=None, **kwargs):
        super().__init__(seed, **kwargs)
        self.probability = probability

    def call(self, inputs, training=False):
        if not training:
            return self.probability * inputs
        kept, alpha, beta = self.uniform(3, inputs)
        kept = kept < self.probability
        return shaken(inputs, ops.where(kept, 1.0, 2 * alpha - 1), ops.where(kept, 1.0, beta))

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}
