"""RandomPerturbation: SAM's control, a step of the same length in a random direction (Foret et al. 2021, C.5)."""

import random

import keras
from keras import ops

from keras_sam.rules import checks
from keras_sam.rules.norms import steepest_ascent
from keras_sam.rules.sam import SAM
from keras_sam.rules.step import STRIDE


@keras.saving.register_keras_serializable("keras_sam")
class RandomPerturbation(SAM):
    """The gradient at a random point at distance ρ: what is left of SAM without the ascent.

    ```
    epsilon = rho * z / ‖z‖₂,    z ~ N(0, I)
    applied = ∇L(w + epsilon)
    ```

    z depends on the seed, the optimizer's iteration and the number of the replica and micro-batch, and on nothing else,
    so that training resumes with the numbers of an uninterrupted run. On JAX, where a weight that the loss does
    not depend on has a gradient of zeros, such weights take their part of ρ.

    Args:
        rho: Float ≥ 0 or `LearningRateSchedule`, the length of ε. Defaults to `0.05`.
        m: How many examples share one z, as in `SAM`. Defaults to `None`.
        where: Regular expression, which variables move, as in `SAM`. Defaults to `None`.
        seed: Optional integer. Defaults to `None`, a random one.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> model.compile("sgd", "mse", sam=keras_sam.RandomPerturbation(rho=0.05, seed=0))

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), appendix C.5.
    """

    def __init__(self, rho=0.05, m=None, where=None, seed=None):
        super().__init__(rho=rho, m=m, where=where)
        self.seed = random.randrange(2**31) if seed is None else checks.check_seed(seed)
        self._generator = keras.random.SeedGenerator(self.seed % 2**31)

    def perturbation(self, weights, gradient, step):
        state = self._generator.state
        # The generator draws a number of the sequence for each weight, from a seed and a position given here.
        position = ops.cast(step.iteration, state.dtype) * len(weights)
        seed = self.seed % 2**31 + ops.cast(step.share, state.dtype) * ops.cast(STRIDE, state.dtype)
        with keras.StatelessScope([(state, ops.stack([seed, position]))]):
            z = [keras.random.normal(w.shape, dtype=w.dtype, seed=self._generator) for w in weights]
        return steepest_ascent(z, step.rho)

    def get_config(self):
        return self._config("rho", "m", "where", "seed")

    def __reduce__(self):
        """A copy has a generator of its own: Keras's, which holds a lock, cannot be copied."""
        return type(self).from_config, (self.get_config(),)
