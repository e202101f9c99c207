"""All results of a folder beside the paper's numbers: on the screen, in Markdown, and as pictures."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from keras_sam.experiments import recipes, results
from keras_sam.experiments.comparison import METRICS, chosen, lines, read
from keras_sam.experiments.statistics import mean_and_interval
from keras_sam.sharpness import plots
from keras_sam.sharpness.curves import draw

# Of a run's history, what a recipe may ask to see by epoch (its `CURVES`).
CURVES = METRICS | {"perturbed_error": "training error at w + ε̂ (%)", "val_accuracy": "test accuracy (%)"}
PERCENT = {name for name, title in CURVES.items() if "(" in title}
COLUMNS = ("row", "method", "metric", "here", "seeds", "paper")


def recipe(module):
    """The rows of a table or figure, a `rich.table.Table`, with the paper's numbers where it has some."""
    # Whole or folded, never cut: names are there to be copied.
    columns = Column("row", no_wrap=True), Column("methods", overflow="fold"), Column("recipe", overflow="fold")
    shown = Table(*columns, title=module.TITLE, show_lines=True)
    if any(row.published for row in module.ROWS.values()):
        shown.add_column("paper", overflow="fold")
    for name, row in module.ROWS.items():
        length = f"{row.epochs} epochs" if row.epochs else f"{row.steps} steps"
        numbers = f"batch {row.batch_size}, learning rate {row.learning_rate:g}, weight decay {row.weight_decay:g}"
        paper = [f"{method} {' / '.join(numbers.values())}" for method, numbers in row.published.items()]
        cells = name, " ".join(row.methods), f"{length}, {numbers}", "\n".join(paper)
        shown.add_row(*cells[: len(shown.columns)])
    return shown


def text(values, metric, spread):
    """Mean and spread in the paper's units; of one value without spread."""
    if len(values) == 0:
        return "—"
    scale = 100 if metric in PERCENT else 1
    values = scale * np.array(values, dtype="float64")
    if len(values) == 1:
        return f"{values[0]:.2f}"
    half = values.std(ddof=1) if spread == "standard deviation" else mean_and_interval(values)[1]
    return f"{values.mean():.2f} ± {half:.2f}"


def write(output, console, tables=None):
    """Print tables; write `report.md`, `report.png` and the pictures of `curves`, of all that has results.

    Args:
        output: Folder of the results.
        console: `rich.console.Console`.
        tables: Names to be printed, results or not. Defaults to `None`, those with results.

    Returns:
        Path of `report.md`.
    """
    found, histories = read(output), read(output, "history")
    sections, points, drawn = [], [], []
    finished = {table for table, _, _ in found}
    for name in recipes.NAMES:
        asked_for = name in (finished if tables is None else tables)
        if not asked_for and name not in finished:
            continue
        module, tuned = recipes.module(name), chosen(name, output)
        spread = getattr(module, "SPREAD", "95 % confidence interval")
        shown = [
            (row, method, METRICS.get(metric, metric), text(values, metric, spread), str(seeds or ""), paper)
            for row, method, metric, values, seeds, paper in lines(name, found, tuned)
        ]
        screen = Table(*COLUMNS, title=f"{name}: {module.TITLE}", caption=f"mean ± {spread}")
        for cells in shown:
            screen.add_row(*cells)
        if asked_for:
            console.print(screen)
        head = [
            f"## {name}: {module.TITLE}",
            "",
            f"Mean ± {spread}.",
            "",
            _line(COLUMNS),
            _line(["---"] * len(COLUMNS)),
        ]
        sections.append("\n".join([*head, *map(_line, shown)]))
        points += improvements(name, found, tuned)
        drawn.append(name)
    path = Path(output) / "report.md"
    with results.replacing(path) as temporary:
        temporary.write_text("# Results beside the paper's\n\n" + "\n\n".join(sections) + "\n")
    # Only now: a figure that fails takes no table with it.
    figures = {"report": plots.improvements(points)} if points else {}
    for name in drawn:
        figures |= curves(name, histories)
    for name, figure in figures.items():
        with results.replacing(Path(output) / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    return path


def curves(name, histories):
    """What the paper shows along the training, as figures 4, 5 and 7 do: a line a method, its mean over the seeds.

    Args:
        name: A table or figure, whose recipe names the metrics as `CURVES`.
        histories: What `read(output, "history")` returns.

    Returns:
        Dict from names to a `matplotlib.figure.Figure`, one a row and metric; bands are 95 % confidence intervals.
    """
    module, figures = recipes.module(name), {}
    for row in module.ROWS:
        # What was trained to choose by is none of the table's methods.
        runs = {
            method: list(seeds.values())
            for (table, of, method), seeds in histories.items()
            if (table, of) == (name, row) and "held_out" not in method
        }
        for metric in getattr(module, "CURVES", ()) if runs else ():
            scale = 100 if metric in PERCENT else 1
            values = {m: [run.get(metric, []) for run in of] for m, of in runs.items()}
            by_method = {m: _curve(of, scale) for m, of in values.items() if any(of)}
            if not by_method:  # a recipe may measure more than when these were trained
                continue
            title = f"{module.TITLE}\n{row}"
            label = CURVES[metric].replace("test", "validation") if module.ROWS[row].held_out else CURVES[metric]
            figures["-".join([name, *row.split("/"), metric])] = draw(by_method, "epoch", label, title)
    return figures


def _curve(values, scale):
    # A run that diverged has nulls, and ends early: where a seed has no number, the curve has a gap.
    by_epoch = np.array([*itertools.zip_longest(*values)], dtype="float64")
    mean, half = mean_and_interval(scale * by_epoch.T)
    return np.arange(1, len(mean) + 1), mean, half


def improvements(name, found, chosen=None):
    """By how much SAM lowers the error, in parts of it: the points of figure 1, left.

    Returns:
        List of tuples: the row, the paper's reduction, and the one found or `None`.
    """
    by_row = {}
    for row, method, metric, values, _, paper in lines(name, found, chosen):
        if metric == "test_error" and paper:
            kind = "sam" if method.startswith("sam") else "sgd" if method.startswith("sgd") else None
            mine = float(np.mean(values)) if values else None
            # The first of several, such as SAM with the paper's ρ before the best one.
            by_row.setdefault(row, {}).setdefault(kind, (number(paper), mine))
    points = []
    for row, errors in by_row.items():
        if {"sam", "sgd"} <= set(errors):
            (sam, my_sam), (sgd, my_sgd) = errors["sam"], errors["sgd"]
            mine = None if None in (my_sam, my_sgd) or my_sgd == 0 else 1 - my_sam / my_sgd
            points.append((f"{name}/{row}", 1 - sam / sgd, mine))
    return points


def number(published):
    """The mean of what the paper prints, such as `"2.1 ± <0.1"`."""
    match = re.match(r"[\d.]+", published)
    return float(match.group()) if match else math.nan


def _line(cells):
    return f"| {' | '.join(cells)} |"
