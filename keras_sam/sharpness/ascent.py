"""How far the loss rises nearby: m-sharpness (section 4.1 of the paper), and the average over random directions."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_sam.rules import ASAM, SAM
from keras_sam.rules.checks import check_not_negative, check_positive
from keras_sam.rules.step import moved
from keras_sam.sharpness.hessian import Estimate
from keras_sam.sharpness.objective import Objective


class Sharpness(NamedTuple):
    """By how much loss and error rate nearby exceed those at w.

    Args:
        loss: Float, or array of them, one for each `rho`; for an average an `Estimate`.
        error: The same of the error rate, a share of the examples; NaN unless the model is a classifier.
    """

    loss: Any
    error: Any


def sharpness(
    model, data, rho=0.05, m=None, p=2.0, ascent_steps=1, adaptive=False, training=False, batch_size=32, verbose=1
):
    """m-sharpness: the rise of the loss to its worst within ρ, for each m examples by themselves.

    ```
    mean over groups S of m examples:   L_S(w + ε̂_S) − L_S(w),    ε̂_S by the ascent of SAM (or ASAM) on L_S
    ```

    The ascent is a guess at the maximum, which the true one exceeds. A list of ρ gives the curve that shows where the
    neighbourhood gets steep, from which to choose `rho` for training.

    Args:
        model: A compiled, built `keras.Model`, trained with SAM or not.
        data: Whatever `evaluate` takes: `(x, y)`, a `tf.data.Dataset`, …
        rho: Float ≥ 0, or a list of floats. Defaults to `0.05`.
        m: Int, the number of examples that share one ε̂; `None` for all data. Defaults to `None`.
        p: Float in [1, ∞], the norm of the neighbourhood. Defaults to `2.0`.
        ascent_steps: Int. Defaults to `1`.
        adaptive: Boolean, whether the neighbourhood is ASAM's, which scales with the weights. Defaults to `False`.
        training: Boolean, whether BatchNormalization uses the statistics of the batch, as in training. Defaults to
            `False`.
        batch_size: Int, examples in memory at a time where `data` are arrays. Defaults to `32`.
        verbose: `1` shows progress, `0` nothing. Defaults to `1`.

    Returns:
        `Sharpness` of floats; of arrays where `rho` is a list.

    Raises:
        ValueError: If the model is not compiled or built, if the data are empty, if the loss is not finite, or if an
            argument is none of these.

    Example:

    >>> model.compile(loss="mse")
    >>> x, y = np.zeros((8, 3)), np.ones((8, 2))  # L = mean of (1 − b)², with a bias b of 0
    >>> keras_sam.sharpness.sharpness(model, (x, y), rho=2**0.5, verbose=0).loss
    3.0

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), section 4.1.
    """
    if m is not None and (isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 1):
        raise ValueError(f"Received `m={m!r}`; expected a number of examples, or `None` for all.")
    if adaptive and (p != 2 or ascent_steps != 1):
        raise ValueError(
            f"Received `adaptive=True` with `p={p}` and `ascent_steps={ascent_steps}`; expected 2.0 and 1, as in ASAM."
        )
    if np.size(rho) == 0:
        raise ValueError("Received an empty list for `rho`; expected one radius at least.")
    radii = [check_not_negative(r, "rho", "the radius") for r in (rho if np.ndim(rho) else [rho])]
    rules = [ASAM(r) if adaptive else SAM(r, p, ascent_steps=ascent_steps) for r in radii]
    objective = Objective(model, data, batch_size, training, verbose)
    objective.expect()
    objective.here()
    weights = objective.weights

    def rises(group):
        here = objective.measure(weights, group=group)
        _, gradient = objective.value_and_grad(weights, group)
        there = [list(ascents(objective, rule, weights, gradient, group))[-1] for rule in rules]
        return [_rise(objective.measure(moved(weights, epsilon), group=group), here) for epsilon in there]

    loss, error = objective.mean_over_groups(rises, m).T
    objective.finish()
    return Sharpness(loss, error) if np.ndim(rho) else Sharpness(float(loss[0]), float(error[0]))


def ascents(objective, rule, weights, gradient, group=None, iterations=0):
    """ε̂ after each of the ascent steps of a rule, a list of tensors, on a group of examples.

    Args:
        objective: `Objective`.
        rule: A rule that keeps no state.
        weights: List of tensors.
        gradient: List of tensors, the gradient at `weights`.
        group: As in `Objective.measure`.
        iterations: Integer, for a schedule of ρ.
    """
    step, epsilon = rule.step(iterations, objective.model.trainable_variables), None
    for i in range(rule.ascent_steps):
        if i:
            _, gradient = objective.value_and_grad(moved(weights, epsilon), group)
        epsilon = rule.ascend(weights, gradient, step, epsilon)
        yield epsilon


def average_sharpness(model, data, sigma, num_samples=10, batch_size=32, seed=0, verbose=1):
    """How far the loss rises on average when every weight is disturbed by Gaussian noise.

    ```
    mean of L(w + ε) − L(w),    ε_i ~ Normal(0, σ²)
    ```

    The sharpness of PAC-Bayes bounds, such as equation 13 of the paper. For small σ it is σ²/2 times the trace of the
    Hessian; noise of the length ρ, on average, has σ = ρ / √k for k weights.

    Args:
        model, data, batch_size, verbose: As in `sharpness`.
        sigma: Float ≥ 0, the standard deviation of the noise.
        num_samples: Int, the number of random ε. Defaults to `10`.
        seed: Int, of the noise. Defaults to `0`.

    Returns:
        `Sharpness` of `Estimate`s, each a value with its standard error.

    Raises:
        ValueError: As `sharpness`.

    Example:

    >>> model.compile(loss="mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 2))
    >>> keras_sam.sharpness.average_sharpness(model, (x, y), sigma=0.0, verbose=0).loss.value
    0.0

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), appendix A.1;
    [Jiang et al., 2019](https://arxiv.org/abs/1912.02178).
    """
    sigma = check_not_negative(sigma, "sigma", "the standard deviation of the noise")
    check_positive(num_samples, "num_samples")
    objective = Objective(model, data, batch_size, verbose=verbose)
    objective.expect(num_samples + 1)
    here, random = objective.here(), np.random.default_rng(seed)
    weights, rises = objective.weights, []
    for _ in range(num_samples):
        epsilon = [ops.convert_to_tensor(sigma * random.normal(size=w.shape), w.dtype) for w in weights]
        rises.append(_rise(objective.measure(moved(weights, epsilon)), here))
    means = np.mean(rises, 0)
    errors = np.std(rises, axis=0, ddof=1) / np.sqrt(num_samples) if num_samples > 1 else [np.nan, np.nan]
    return Sharpness(*(Estimate(float(mean), float(error)) for mean, error in zip(means, errors)))


def _rise(there, here):
    """Of loss and error rate; the predictions of a model whose loss is no number have no error rate."""
    return np.subtract(there, here) if np.isfinite(there[0]) else np.array([there[0], np.nan])
