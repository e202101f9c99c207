"""How well a measure predicts which networks generalize (figure 3, right)."""

import itertools

import numpy as np


def generalization_score(measure, gap, hyperparameters):
    """The share of what there is to know about the order of generalization gaps that a measure tells.

    ```
    V_μ = sign(μ_i − μ_j),    V_g = sign(g_i − g_j),    over all ordered pairs of models i ≠ j
    score = min over pairs of hyperparameters h of   I(V_μ; V_g | h_i, h_j) / H(V_g | h_i, h_j)
    ```

    Values that are equal count as not larger. Conditioning on two hyperparameters at a time shuts out measures that
    tell no more than, say, the depth and the batch size that a network was trained with. 1 is a measure from which
    every order can be read off, reversed as well; 0 one that says nothing. The score of the competition "Predicting
    Generalization in Deep Learning" times 100 is this one, but that it also counted pairs of a model with itself.

    Args:
        measure: Array of floats, one a model, such as the m-sharpness of each.
        gap: Array of floats, one a model: error on new data less error on training data.
        hyperparameters: Dict from names, two at least, to sequences of values, one a model.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If the lengths differ, an array is not flat, a number is not finite, there are fewer than two
            hyperparameters, or two of them determine the order of the gaps.

    Example:

    >>> hyperparameters = {"depth": [1, 1, 1, 1, 2, 2, 2, 2], "width": [8, 8, 16, 16] * 2, "batch": [32, 64] * 4}
    >>> gap = [0.1, 0.3, 0.2, 0.5, 0.4, 0.6, 0.7, 0.8]
    >>> keras_sam.sharpness.generalization_score(gap, gap, hyperparameters)
    1.0

    Reference: [Jiang et al., 2019](https://arxiv.org/abs/1912.02178), section 4.3;
    [Jiang et al., 2020](https://arxiv.org/abs/2012.07976).
    """
    measure, gap = np.asarray(measure, "float64"), np.asarray(gap, "float64")
    for name, values in [("measure", measure), ("gap", gap)]:
        if values.ndim != 1:
            raise ValueError(
                f"Received a `{name}` of shape {values.shape}; expected one number a model, of shape (models,), as "
                "`np.ravel` makes of a column."
            )
    count = len(measure)
    lengths = {"gap": len(gap), **{name: len(values) for name, values in hyperparameters.items()}}
    wrong = {name: length for name, length in lengths.items() if length != count}
    if count < 2 or wrong:
        raise ValueError(f"Received {count} values of `measure` and {lengths}; expected one a model, two at least.")
    if not (np.all(np.isfinite(measure)) and np.all(np.isfinite(gap))):
        raise ValueError("Received a `measure` or `gap` that is not finite. Leave out the models that diverged.")
    if len(hyperparameters) < 2:
        raise ValueError(
            f"Received the hyperparameters {list(hyperparameters)}; expected two at least, since the score holds pairs "
            "of them fixed."
        )
    first, second = np.nonzero(~np.eye(count, dtype=bool))
    measure_rises, gap_rises = measure[first] > measure[second], gap[first] > gap[second]
    codes = {name: _codes(values) for name, values in hyperparameters.items()}
    scores = []
    for names in itertools.combinations(codes, 2):
        conditions = np.stack([codes[name][side] for name in names for side in (first, second)], -1)
        _, cell = np.unique(conditions, axis=0, return_inverse=True)
        scores.append(_normalized_information(measure_rises, gap_rises, cell.ravel()))
    return float(min(scores))


def _codes(values):
    """For each value the place of the first that is equal: lists cannot be hashed, nor NaN be equal to itself."""
    values = [v.tolist() if hasattr(v, "tolist") else v for v in values]
    values = ["NaN" if isinstance(v, float) and v != v else v for v in values]
    return np.array([values.index(v) for v in values])


def _normalized_information(a, b, cell):
    """I(a; b | cell) / H(b | cell) of two boolean arrays."""
    total = np.zeros((cell.max() + 1, 2, 2))
    np.add.at(total, (cell, a.astype(int), b.astype(int)), 1)
    joint = total / len(cell)
    of_cell = joint.sum((1, 2))
    information = _entropy(joint.sum(2)) + _entropy(joint.sum(1)) - _entropy(joint) - _entropy(of_cell)
    entropy = _entropy(joint.sum(1)) - _entropy(of_cell)
    if entropy <= 0:
        raise ValueError(
            "With two of the hyperparameters fixed there is no order of gaps left to predict. Expected a third "
            "hyperparameter or several seeds, so that models differ beside those two."
        )
    return max(information, 0.0) / entropy


def _entropy(probabilities):
    p = probabilities[probabilities > 0]
    return -np.sum(p * np.log2(p))
