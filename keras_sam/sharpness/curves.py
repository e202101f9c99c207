"""Named curves on one pair of axes, and the look of all figures."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# For figures of this package alone: a decorator of what draws them.
styled = matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})

# Two of Okabe and Ito's colours, apart for every kind of colour vision and in grey; then others, with the lines that
# tell them apart without colour.
SGD_COLOR, SAM_COLOR = "#D55E00", "#0072B2"
COLORS = SAM_COLOR, SGD_COLOR, "#009E73", "#CC79A7", "#56B4E9", "#000000"
LINES = "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))


def by_epoch(histories, y_label, title):
    """A line for each of some lists of values, one an epoch."""
    lines = {name: (np.arange(1, len(values) + 1), values) for name, values in histories.items()}
    return draw(lines, "epoch", y_label, title)


@styled
def draw(lines, x_label, y_label, title, log=False):
    """Named lines of `(x, y)` or `(x, y, half-width)`."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, (x, y, *width)) in enumerate(lines.items()):
        color, style = COLORS[i % len(COLORS)], LINES[i % len(LINES)]
        axes.plot(x, y, color=color, linestyle=style, label=name)
        if width:
            axes.fill_between(x, np.subtract(y, width[0]), np.add(y, width[0]), color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    if log:
        axes.set_yscale("log")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    return figure
