"""The picture of the demo."""

import numpy as np
from matplotlib.figure import Figure

from keras_sam.sharpness.curves import SAM_COLOR, SGD_COLOR, styled


@styled
def demo(sgd, sam, noise, rho):
    """Test accuracy and sharpness of SGD and SAM, over equal cost.

    Look for the hump: SGD learns the digits, then its wrong labels, and its accuracy falls while the loss
    around it gets steeper. SAM stays where it had got to.

    Args:
        sgd: List of histories, one a seed, as `demo.train` returns them; `sam` likewise, of the same cost.
        noise: Float, the share of wrong labels, for the title.
        rho: Float, the radius at which sharpness was measured.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    accuracy, sharpness = figure.subplots(1, 2)
    for name, runs, color in [("SGD", sgd, SGD_COLOR), ("SAM", sam, SAM_COLOR)]:
        _runs(accuracy, runs, "test_accuracy", name, color, scale=100)
        _runs(sharpness, runs, "sharpness", name, color)
    accuracy.set(title="Accuracy on the test set (%)", ylim=(0, 100))
    sharpness.set(title=f"Sharpness of the training loss (ρ = {rho})")
    for axes in (accuracy, sharpness):
        axes.set_xlabel("gradients computed (1 = one pass over the data)")
        axes.set_xlim(0, 1.13 * max(sgd[0]["gradients"][-1], sam[0]["gradients"][-1]))
        axes.grid(axis="y", alpha=0.25)
    figure.suptitle(f"Digits with {noise:.0%} of the training labels drawn anew", fontweight="bold")
    return figure


def _runs(axes, runs, key, name, color, scale=1.0):
    """The mean over seeds, named at its end, over a thin line a seed: three seeds have no quantiles to draw."""
    measured = [i for i, value in enumerate(runs[0][key]) if value is not None]
    x = np.array(runs[0]["gradients"])[measured]
    values = np.array([[scale * run[key][i] for i in measured] for run in runs])
    if len(runs) > 1:
        axes.plot(x, values.T, color=color, linewidth=0.8, alpha=0.35)
    axes.plot(x, values.mean(0), color=color, linewidth=2.2)
    end = (x[-1], values[:, -1].mean())
    axes.annotate(name, end, (6, 0), textcoords="offset points", color=color, fontweight="bold", va="center")
