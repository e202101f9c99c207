"""Theorem 2 of the paper: how large the loss on new data can be, given its worst value nearby."""

import math


def pac_bayes_bound(worst_loss, weights_norm, num_parameters, num_examples, rho, delta=0.05):
    """The PAC-Bayes bound on the loss on new data, from the largest training loss within ρ.

    ```
    worst + √((k log(1 + ‖w‖² / ρ² (1 + √(log n / k))²) + 4 log(n / δ) + 8 log(6n + 3k)) / (n − 1))
    ```

    It holds with probability 1 − δ over the training set, for a loss in [0, 1] such as the error rate, if random noise
    of the size of ρ does not lower the loss on new data. Two warnings. The worst loss is a maximum: what ascent finds
    (`sharpness` plus the loss at w) is below it, so that the value is then no bound but an estimate of one. And with
    more weights than examples, as in every deep network, it is above 1: vacuous. It shows what matters, not how well
    a network does.

    Args:
        worst_loss: Float in [0, 1], the largest mean loss of the training set within ρ of the weights.
        weights_norm: Float ≥ 0, ‖w‖₂ of all weights.
        num_parameters: Int k ≥ 1, their number.
        num_examples: Int n ≥ 2, the size of the training set.
        rho: Float > 0.
        delta: Float in (0, 1), the probability that the bound does not hold. Defaults to `0.05`.

    Returns:
        Float, which may be above 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(keras_sam.sharpness.pac_bayes_bound(0.1, 1.0, num_parameters=10, num_examples=60_000, rho=0.5), 4)
    0.1558

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), theorem 2, last line of its proof.
    """
    for name, value, holds, expected in [
        ("worst_loss", worst_loss, 0 <= worst_loss <= 1, "a loss in [0, 1], such as the error rate"),
        ("weights_norm", weights_norm, 0 <= weights_norm < math.inf, "a finite norm of at least 0"),
        ("num_parameters", num_parameters, num_parameters >= 1, "at least 1"),
        ("num_examples", num_examples, num_examples >= 2, "at least 2"),
        ("rho", rho, 0 < rho < math.inf, "a radius above 0"),
        ("delta", delta, 0 < delta < 1, "a probability in (0, 1)"),
    ]:
        if not holds:
            raise ValueError(f"Received `{name}={value}`; expected {expected}.")
    n, k = num_examples, num_parameters
    ratio = (weights_norm / rho) ** 2 * (1 + math.sqrt(math.log(n) / k)) ** 2
    complexity = k * math.log1p(ratio) + 4 * math.log(n / delta) + 8 * math.log(6 * n + 3 * k)
    return worst_loss + math.sqrt(complexity / (n - 1))
