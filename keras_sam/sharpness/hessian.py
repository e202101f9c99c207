"""The largest eigenvalues and the trace of the Hessian of the loss (section 4.2 of the paper)."""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.sparse import linalg as sparse_linalg

from keras_sam.rules.checks import check_not_negative, check_positive
from keras_sam.sharpness.objective import Objective


class Estimate(NamedTuple):
    """A mean over random draws.

    Args:
        value: Float.
        standard_error: Float, its standard error; NaN for a single draw.
    """

    value: float
    standard_error: float


def hessian_eigenvalues(model, data, k=5, which="LA", tolerance=1e-3, batch_size=32, seed=0, verbose=1):
    """The extreme eigenvalues of the Hessian of the loss, with their signs, in descending order.

    ```
    H v_i = λ_i v_i,    H = ∇² L(w),    λ_1 ≥ λ_2 ≥ … ≥ λ_k
    ```

    The first is λ_max, and the first over the fifth is the paper's λ_max / λ_5. BatchNormalization and Dropout are in
    inference mode. Implicitly restarted Lanczos of SciPy (ARPACK), which takes 20 Hessian-vector products over the
    data or a few times as many, each at the cost of about 2.5 gradients, and keeps `max(2 k + 1, 20)` float64
    vectors of the size of the weights.

    Args:
        model: A compiled, built `keras.Model`, trained with SAM or not.
        data: Whatever `evaluate` takes: `(x, y)`, a `tf.data.Dataset`, …
        k: Int, how many. Defaults to `5`.
        which: `"LA"` for the largest, `"SA"` for the smallest, or `"LM"` for those of the largest magnitude. Defaults
            to `"LA"`.
        tolerance: Float, the relative accuracy, which float32 limits to about `1e-5`. Defaults to `1e-3`.
        batch_size: Int, examples in memory at a time where `data` are arrays. Defaults to `32`.
        seed: Int, of the vector to begin with. Defaults to `0`.
        verbose: `1` shows progress, `0` nothing. Defaults to `1`.

    Returns:
        Array of `k` floats.

    Raises:
        ValueError: If the model is not compiled or built, if there are fewer weights than `k`, if the loss or its
            second derivatives are not finite, or if the data are empty.

    Example:

    >>> model.compile(loss="mse")
    >>> eigenvalues = keras_sam.sharpness.hessian_eigenvalues(model, (np.ones((8, 3)), np.ones((8, 2))), k=2, verbose=0)
    >>> eigenvalues.round(3)
    array([4., 4.])

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), section 4.2.
    """
    objective = Objective(model, data, batch_size, verbose=verbose)
    if which not in ("LA", "SA", "LM"):
        raise ValueError(f"Received `which={which!r}`; expected 'LA', 'SA' or 'LM'.")
    check_not_negative(tolerance, "tolerance", "the relative accuracy of the eigenvalues")
    check_count("k", k, objective)
    objective.expect()
    objective.here()
    start = np.random.default_rng(seed).normal(size=objective.num_parameters)
    eigenvalues, _ = extreme(objective, k, which, tolerance, start)
    objective.finish()
    return eigenvalues


def extreme(objective, k, which, tolerance, start, num_vectors=None):
    """Eigenvalues of the Hessian of an `Objective`, in descending order, and their eigenvectors as columns.

    Args:
        objective: `Objective`.
        k, which, tolerance: As in `hessian_eigenvalues`.
        start: Flat array, the vector to begin with.
        num_vectors: Int, those that ARPACK keeps; `None` for its default.
    """
    size = objective.num_parameters
    if size <= max(2 * k + 1, 20):
        # ARPACK needs more rows than it keeps vectors; of so small a Hessian all columns are computed.
        columns = np.stack([objective.hessian_vector_product(row) for row in np.eye(size)], -1)
        values, vectors = linalg.eigh((columns + columns.T) / 2)
        order = np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")[:k]
        values, vectors = values[order], vectors[:, order]
    else:
        operator = sparse_linalg.LinearOperator((size, size), objective.hessian_vector_product, dtype="float64")
        options = {"which": which, "tol": tolerance, "v0": start, "ncv": num_vectors}
        try:
            values, vectors = sparse_linalg.eigsh(operator, k, **options)
        except sparse_linalg.ArpackError as error:
            raise ValueError(
                f"ARPACK found no {k} eigenvalues to a `tolerance` of {tolerance} ({error}). A larger one, or "
                "another `seed`, may do; if the Hessian is zero, as that of a network whose units are all dead, there "
                "is nothing to find."
            ) from error
    order = np.argsort(-values)
    return values[order], vectors[:, order]


def hessian_trace(model, data, num_probes=20, batch_size=32, seed=0, verbose=1):
    """The trace of the Hessian of the loss, the sum of its eigenvalues, by Hutchinson's estimate.

    ```
    trace H ≈ mean of vᵀ H v,    v_i = ±1 at random
    ```

    Args:
        model, data, batch_size, verbose: As in `hessian_eigenvalues`.
        num_probes: Int, the number of random v. Defaults to `20`.
        seed: Int, of the v. Defaults to `0`.

    Returns:
        `Estimate`, the trace and its standard error.

    Raises:
        ValueError: As `hessian_eigenvalues`, or if `num_probes` is not positive.

    Example:

    >>> model.compile(loss="mse")
    >>> trace = keras_sam.sharpness.hessian_trace(model, (np.zeros((8, 3)), np.ones((8, 2))), verbose=0)
    >>> round(trace.value, 3), round(trace.standard_error, 3)
    (2.0, 0.0)

    Reference: Hutchinson, 1989, "A stochastic estimator of the trace of the influence matrix".
    """
    objective = Objective(model, data, batch_size, verbose=verbose)
    check_positive(num_probes, "num_probes")
    objective.expect(num_probes + 1)
    objective.here()
    values = []
    for v in probes(objective, num_probes, seed):
        values.append(v @ objective.hessian_vector_product(v))
    error = np.std(values, ddof=1) / np.sqrt(num_probes) if num_probes > 1 else np.nan
    return Estimate(float(np.mean(values)), float(error))


def probes(objective, num_probes, seed):
    """Flat arrays of ±1 at random."""
    random = np.random.default_rng(seed)
    for _ in range(num_probes):
        yield random.choice([-1.0, 1.0], size=objective.num_parameters)


def check_count(name, value, objective):
    """Raise a `ValueError` unless there are so many eigenvalues."""
    check_positive(value, name)
    if value > objective.num_parameters:
        raise ValueError(
            f"Received `{name}={value}` for `{objective.model.name}`, whose Hessian has no more than "
            f"{objective.num_parameters} eigenvalues, one for each of its trainable weights. Expected at most that."
        )
