"""The paper's figures, each a function of measured numbers that returns a `matplotlib.figure.Figure` to save or show.

They are legible in print and to every kind of colour vision; each docstring says what to look for.
"""

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from keras_sam.sharpness.curves import SAM_COLOR, SGD_COLOR, by_epoch, draw, styled


@styled
def improvements(points):
    """Figure 1, left. The share of the error that SAM removes, one line a row of a table: the paper's, and that found.

    Look for points right of 0: there SAM is better. The paper has one point left of it, on SVHN.

    Args:
        points: List of tuples of a name, the paper's share, and the one found or `None`.
    """
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(points)), layout="constrained")
    axes = figure.subplots()
    names, paper, found = zip(*points)
    height = np.arange(len(points))[::-1]
    axes.plot(100 * np.array(paper), height, "o", mfc="none", color="0.4", label="paper")
    mine = [(100 * share, y) for share, y in zip(found, height) if share is not None]
    if mine:
        axes.plot(*zip(*mine), "o", color=SAM_COLOR, label="here")
    axes.axvline(0, color="0.7", linewidth=1)
    axes.set_yticks(height, names, fontsize=8)
    axes.set(xlabel="share of the test error that SAM removes (%)", title="SGD → SAM")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(loc="lower right")
    return figure


@styled
def landscapes(surfaces):
    """Figure 1, middle and right. The loss around each model, in space above and as contours of one scale below.

    Look at how fast the loss rises from the middle, the model, and how wide the innermost contours are. A sharp minimum
    is a narrow funnel; the paper's SGD has one, and its SAM a wide bowl. Colours and heights are logarithmic and the
    same for all models. Surfaces along one direction are drawn as lines.

    Args:
        surfaces: Dict from names to `Surface`, all of the same dimensions.
    """
    losses = np.concatenate([s.loss.ravel() for s in surfaces.values()])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    if not losses.size:
        raise ValueError("Received surfaces without a positive loss, so without a logarithm. Add a constant to `loss`.")
    low, high = losses.min(), losses.max()
    if next(iter(surfaces.values())).beta is None:
        lines = {name: (s.alpha, s.loss) for name, s in surfaces.items()}
        return draw(lines, "α", "loss", "The loss along a direction", log=True)
    figure = Figure(figsize=(4.6 * len(surfaces), 7.6), layout="constrained")
    levels = np.geomspace(low, high * (1 + 1e-9), 13) if high > low else [low, 2 * low]
    shared = LogNorm(levels[0], levels[-1])
    for i, (name, surface) in enumerate(surfaces.items(), 1):
        alpha, beta = np.meshgrid(surface.alpha, surface.beta, indexing="ij")
        loss = np.clip(surface.loss, low, high)
        above = figure.add_subplot(2, len(surfaces), i, projection="3d")
        above.plot_surface(
            alpha, beta, np.log10(loss), facecolors=matplotlib.colormaps["cividis"](shared(loss)), rcount=99, ccount=99
        )
        above.set(title=name, zlim=np.log10([low, high]), xlabel="α", ylabel="β")
        above.set_zlabel("log₁₀ loss")
        above.set_box_aspect((4, 4, 3), zoom=0.88)
        below = figure.add_subplot(2, len(surfaces), len(surfaces) + i)
        filled = below.contourf(alpha, beta, loss, levels, norm=shared, cmap="cividis")
        lines = below.contour(alpha, beta, loss, levels, colors="white", linewidths=0.6)
        below.clabel(lines, levels[::2], fontsize=7, fmt="%.2g")
        below.plot(0, 0, "x", color="white")
        below.set(xlabel="α", ylabel="β", aspect="equal")
    bar = figure.colorbar(filled, ax=figure.axes[1::2], shrink=0.8)
    bar.ax.set_title("loss", fontsize=11)
    bar.set_ticks(levels[::2], labels=[f"{level:.2g}" for level in levels[::2]])
    bar.minorticks_off()
    return figure


@styled
def sam_step():
    """Figure 2. One step of SGD and one of SAM, from the same point in a valley.

    Look at the two solid arrows from w. The gradient at w + ε̂, further up the wall, is longer and turned; carried back
    to w (dotted: where it was taken) it makes another step than the gradient there.
    """
    rho, learning_rate = 0.6, 0.3
    curvature = np.array([0.6, 4.0])
    w = np.array([-2.0, 0.2])
    epsilon = rho * curvature * w / np.linalg.norm(curvature * w)
    there = w + epsilon
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    x, y = np.meshgrid(np.linspace(-3.2, 0.9, 200), np.linspace(-1.1, 1.2, 200))
    loss = (curvature[0] * x**2 + curvature[1] * y**2) / 2
    axes.contour(x, y, loss, np.geomspace(0.05, 8, 14), colors="0.75", linewidths=0.8)
    for start, move, color, style, label in [
        (w, epsilon, "0.3", "-", ""),
        (there, -learning_rate * curvature * there, SAM_COLOR, ":", ""),
        (w, -learning_rate * curvature * w, SGD_COLOR, "-", "SGD"),
        (w, -learning_rate * curvature * there, SAM_COLOR, "-", "SAM"),
    ]:
        arrow = {"arrowstyle": "-|>", "color": color, "linestyle": style, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", start + move, start, arrowprops=arrow)
        axes.annotate(label, start + move, (6, -4), textcoords="offset points", color=color, fontweight="bold")
    for point, name in [(w, "w"), (there, "w + ε̂")]:
        axes.plot(*point, "o", color="black", markersize=5)
        axes.annotate(name, point, (-8, -4), textcoords="offset points", ha="right")
    axes.set(title="One step of SGD and of SAM", aspect="equal", xticks=[], yticks=[])
    return figure


@styled
def spectra(columns):
    """Figure 3, left. The density of the eigenvalues of the Hessian, a column a method and a row a time of training.

    Look at how far right the spectrum reaches: λ_max is the curvature of the sharpest direction, and λ_max / λ_5 says
    how far it stands apart. The paper ends at 25 and up to 11.4 with SGD, at 1.0 and up to 2.6 with SAM. The axes of
    a row are shared, and density is logarithmic.

    Args:
        columns: Dict from names to lists of `(label, Density, eigenvalues)`, the last in descending order or `None`.
    """
    count = max(map(len, columns.values()))
    figure = Figure(figsize=(4.6 * len(columns), 0.8 + 2.4 * count), layout="constrained")
    grid = figure.subplots(count, len(columns), sharex="row", sharey=True, squeeze=False)
    for i, (name, rows) in enumerate(columns.items()):
        for axes, (label, density, eigenvalues) in zip(grid[:, i], rows):
            axes.semilogy(
                density.grid, np.maximum(density.density, 1e-12), color=SAM_COLOR if i else SGD_COLOR, linewidth=1.2
            )
            text = label
            if eigenvalues is not None:
                axes.axvline(eigenvalues[0], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
                text += f"\n$\\lambda_{{\\max}}$ = {eigenvalues[0]:.3g}"
                if len(eigenvalues) > 4 and eigenvalues[4]:
                    text += f"\n$\\lambda_{{\\max}} / \\lambda_5$ = {eigenvalues[0] / eigenvalues[4]:.2f}"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0.97, 0.95, text, transform=axes.transAxes, ha="right", va="top", bbox=box)
        grid[0, i].set_title(name)
        grid[-1, i].set_xlabel("eigenvalue")
    peaks = [density.density.max() for rows in columns.values() for _, density, _ in rows]
    for axes in grid[:, 0]:
        axes.set(ylabel="density", ylim=(1e-6 * min(peaks), 2 * max(peaks)))
    return figure


def error_by_rho(curves):
    """Figure 3, middle. The test error by ρ, a line for each m.

    Look at how low each line gets, and where: in the paper a smaller m gets lower.

    Args:
        curves: Dict from m to `(rhos, errors)` or `(rhos, errors, half-widths of intervals)`, shares.
    """
    lines = {f"m = {m}": (rhos, *(100 * np.array(shares) for shares in rest)) for m, (rhos, *rest) in curves.items()}
    return draw(lines, "ρ", "test error (%)", "Test error by ρ and m")


def predictive_power(scores):
    """Figure 3, right. How well m-sharpness predicts the generalization gap, by m.

    Look for a line that falls: in the paper the smaller m, the better the prediction. 0 is none, 1 is perfect.

    Args:
        scores: Dict from names (of a radius, say) to `(ms, scores)`.
    """
    figure = draw(scores, "m", "mutual information with the gap", "Predictive power of m-sharpness")
    figure.axes[0].set(xscale="log", ylim=(0, None))
    return figure


def first_and_second_order(histories):
    """Figure 4. Training error at w + ε̂ and test error at w, with and without the terms of second order.

    Look at the end: in the paper the first order has the lower test error.

    Args:
        histories: Dict from names to histories of `fit` with `perturbed_error`, which
            `callbacks.InnerMaximization` logs, and `val_accuracy`, one value an epoch.
    """
    percent = {}
    for name, history in histories.items():
        percent[f"{name}: training, at w + ε̂"] = 100 * np.array(history["perturbed_error"])
        percent[f"{name}: test, at w"] = 100 * (1 - np.array(history["val_accuracy"]))
    return by_epoch(percent, "error (%)", "SAM of first and second order")


def cosines(histories):
    """Figure 5. The cosine of the angle between the updates of first and second order, during training.

    Look for a line near 1 that falls towards the end: what the paper drops does not matter until then.

    Args:
        histories: Dict from names to lists of cosines, one an epoch.
    """
    return by_epoch(histories, "cosine", "First against second order")


def accuracy_by_norm(histories):
    """Figure 6. Test accuracy with perturbations of different norms, and random ones.

    Look at the end: in the paper p = 2 is above p = ∞, and both above random directions.

    Args:
        histories: Dict from names to lists of accuracies, one an epoch.
    """
    percent = {name: 100 * np.array(values) for name, values in histories.items()}
    return by_epoch(percent, "test accuracy (%)", "Norms of the neighbourhood")


def inner_maximization(histories, what="error rate"):
    """Figure 7. How far ascent raises the training error, or the loss, during training, by the number of its steps.

    Look at whether the lines lie on each other: then one step finds what several find. In the paper they part near
    convergence.

    Args:
        histories: Dict from names, such as `"3 steps"`, to lists of values, one an epoch.
        what: What is raised, for the axis. Defaults to `"error rate"`.
    """
    return by_epoch(histories, f"max L(w + ε) − L(w), {what}", "Steps of the inner maximisation")


def sharpness_by_rho(curves):
    """How far the loss rises within ρ, by ρ, a line for each model or each m; no figure of the paper.

    Look for where a line leaves its slope at small ρ: a useful `rho` for training lies about there. A flatter minimum
    has the lower line.

    Args:
        curves: Dict from names to `(rhos, rises)`.
    """
    figure = draw(curves, "ρ", "L(w + ε̂) − L(w)", "Sharpness by ρ", log=True)
    figure.axes[0].set_xscale("log")
    return figure
