"""Means over seeds, with the interval that the paper gives."""

import numpy as np
from scipy import stats


def mean_and_interval(values):
    """The mean, and the half-width of its 95 % confidence interval by Student's t (0 for one value).

    Args:
        values: Sequence of floats, or array whose first axis is the seeds.
    """
    values = np.asarray(values, dtype="float64")
    mean, count = values.mean(0), len(values)
    if count == 1:
        return mean, np.zeros_like(mean)
    return mean, stats.t.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)


def percent(values):
    """Shares as a text in %, such as `87.1 ± 4.9`; of one value without the interval."""
    mean, interval = mean_and_interval(100 * np.array(values))
    return f"{mean:.1f} ± {interval:.1f}" if len(values) > 1 else f"{mean:.1f}"
