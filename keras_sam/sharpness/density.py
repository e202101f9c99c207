"""The density of the eigenvalues of the Hessian of the loss (figure 3 of the paper, left)."""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from keras_sam.rules.checks import check_positive
from keras_sam.sharpness.hessian import check_count, probes
from keras_sam.sharpness.objective import Objective


class Density(NamedTuple):
    """How the eigenvalues of a Hessian are distributed.

    Args:
        grid: Array of eigenvalues, ascending, at which `density` is given.
        density: Array, which integrates to 1 over `grid` where the grid is finer than the kernel is wide.
        nodes: Array of the eigenvalues that Lanczos found, over all probes.
        weights: Array, the share of the spectrum that each node stands for; they sum to 1.
    """

    grid: np.ndarray
    density: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray


def hessian_density(model, data, num_probes=1, order=80, num_points=1000, width=None, batch_size=32, seed=0, verbose=1):
    """The density of the eigenvalues of the Hessian of the loss, by stochastic Lanczos quadrature.

    ```
    T = Vᵀ H V by Lanczos from a random v,    T = U diag(nodes) Uᵀ,    weights = U[0]²
    density(t) = Σ weights · Normal(t; nodes, width²),    over all v
    ```

    Every new vector is made orthogonal to all before it, twice, without which Lanczos finds eigenvalues again and
    again; so `order` float64 vectors of the size of the weights are kept.

    Args:
        model, data, batch_size, verbose: As in `hessian_eigenvalues`.
        num_probes: Int, the number of random v, each of ±1. Defaults to `1`.
        order: Int, the steps of Lanczos, each a Hessian-vector product. Defaults to `80`.
        num_points: Int, of the grid. Defaults to `1000`.
        width: Float, the standard deviation of the kernel, in units of the eigenvalues. Defaults to `None`, a
            hundredth of the range of the nodes.
        seed: Int, of the v. Defaults to `0`.

    Returns:
        `Density`. Its mean, Σ weights · nodes, is Hutchinson's trace with the same probes over the number of weights.

    Raises:
        ValueError: As `hessian_eigenvalues`, or if `order` is more than the number of weights.

    Example:

    >>> model.compile(loss="mse")
    >>> density = keras_sam.sharpness.hessian_density(model, (np.ones((8, 3)), np.ones((8, 2))), order=2, verbose=0)
    >>> density.nodes.round(3) + 0.0
    array([0., 4.])

    Reference: [Ghorbani et al., 2019](https://arxiv.org/abs/1901.10159), algorithms 1 and 2.
    """
    objective = Objective(model, data, batch_size, verbose=verbose)
    check_positive(num_probes, "num_probes")
    check_count("order", order, objective)
    check_positive(num_points, "num_points")
    if width is not None and not 0 < width < np.inf:
        raise ValueError(f"Received `width={width}`; expected a standard deviation above 0, or `None`.")
    objective.expect(num_probes * order + 1)
    objective.here()
    found = [lanczos(objective.hessian_vector_product, v, order) for v in probes(objective, num_probes, seed)]
    nodes = np.concatenate([nodes for nodes, _ in found])
    weights = np.concatenate([weights for _, weights in found]) / num_probes
    low, high = nodes.min(), nodes.max()
    if width is None:
        # All eigenvalues may be one.
        width = (high - low) / 100 or max(abs(high), 1.0) / 100
    grid = np.linspace(low - 6 * width, high + 6 * width, num_points)
    kernel = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return Density(grid, kernel @ weights, nodes, weights)


def lanczos(product, v, order):
    """Nodes, ascending, and weights of the Gauss quadrature of the spectrum of a symmetric operator as seen from v.

    Fewer than `order` where the space that v spans under the operator has fewer dimensions.

    Args:
        product: Function from a flat array to another.
        v: Flat array.
        order: Int.
    """
    basis = np.empty((order, len(v)))
    diagonal, beside = [], []
    basis[0] = v / np.linalg.norm(v)
    for i in range(order):
        w = product(basis[i])
        diagonal.append(basis[i] @ w)
        for _ in range(2):
            w = w - basis[: i + 1].T @ (basis[: i + 1] @ w)
        length = np.linalg.norm(w)
        # Products are as exact as float32 is.
        if i + 1 == order or length <= 1e-6 * max(np.abs(diagonal).max(), *beside, 0.0):
            break
        beside.append(length)
        basis[i + 1] = w / length
    nodes, vectors = linalg.eigh_tridiagonal(diagonal, beside)
    return nodes, vectors[0] ** 2
