"""All results of a folder beside the paper's numbers: on the screen, in Markdown, and as pictures."""

import json
import math
import re
from pathlib import Path

import numpy as np
from rich.table import Table

from keras_sam.experiments import recipes, results
from keras_sam.experiments.runner import Run
from keras_sam.experiments.statistics import mean_and_interval
from keras_sam.sharpness import plots
from keras_sam.sharpness.curves import draw

METRICS = {
    "test_error": "test error (%)",
    "test_accuracy": "test accuracy (%)",
    "validation_error": "validation error (%)",
    "top5_error": "top-5 error (%)",
    "sharpness_of_error": "sharpness of the error (points)",
    "sharpness_of_loss": "sharpness of the loss",
    "cosine": "cosine",
}
# Of a run's history, what a recipe may ask to see by epoch (its `CURVES`).
CURVES = METRICS | {"perturbed_error": "training error at w + ε̂ (%)", "val_accuracy": "test accuracy (%)"}
PERCENT = {name for name, title in CURVES.items() if "(" in title}
COLUMNS = ("row", "method", "metric", "here", "seeds", "paper")


def read(output, part="result"):
    """The finished runs of a folder but for those in smoke mode.

    Args:
        output: Folder of the results.
        part: String, what to read of a run: its `"result"`, or its `"history"`. Defaults to `"result"`.

    Returns:
        Dict from `(table, row, method)` to a dict from seeds to that part; the values that a run tries in place of the
        recipe's are part of the method's name.
    """
    found = {}
    for run, content in _runs(sorted(Path(output).rglob("seed-*.json"))):
        method = f"{run.method} ({run.variant})" if run.variant else run.method
        found.setdefault((run.table, run.row, method), {})[run.seed] = content.get(part, {})
    return found


def _runs(paths):
    for path in paths:
        content = json.loads(path.read_text())
        run = Run(**content["settings"]["run"]) if "settings" in content else None
        if run is not None and not run.smoke:
            yield run, content


def paired(first, second):
    """What two folders of runs have found, such as two methods of a row, for the seeds that both have.

    Args:
        first: Folder of the files of one method, `small-table5/noise-40/none/sam/rho=0.5` in the results.
        second: Folder likewise.

    Returns:
        List of tuples: a metric, the values of the first, those of the second, and their differences, each by seed; and
        the seeds.

    Raises:
        ValueError: If no seed is in both.
    """
    one, other = (
        {run.seed: content["result"] for run, content in _runs(Path(folder).glob("seed-*.json"))}
        for folder in (first, second)
    )
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise ValueError(
            f"Received {first} with runs of the seeds {sorted(one)} and {second} with {sorted(other)}; expected "
            "folders of `seed-*.json` that have a seed in common."
        )
    table = []
    for metric in METRICS:
        pairs = [(one[seed].get(metric), other[seed].get(metric)) for seed in seeds]
        if all(value is not None for pair in pairs for value in pair):
            values, others = np.transpose(pairs)
            table.append((metric, values, others, values - others))
    return table, seeds


def lines(name, found):
    """The rows of a table or figure, one a method and metric: what the paper prints, and what was found.

    Where the paper prints the best of several trainings (SGD for one and two times the epochs, four α of Mixup), so
    does this.

    Returns:
        List of tuples as `COLUMNS` names them; "here" is the list of values by seed.
    """
    table = []
    for row_name, row in recipes.module(name).ROWS.items():
        mine = {method: seeds for (table_, row_, method), seeds in found.items() if (table_, row_) == (name, row_name)}
        told = set()
        for method, published in row.published.items():
            candidates = [m for m in mine if m == method or m.startswith(f"{method}-")]
            told.update(candidates)
            for metric, paper in published.items():
                best, values = _best(candidates, mine, metric)
                table.append((row_name, best or method, metric, values, len(values), paper))
        for method in mine:
            if method not in told:
                for metric in next(iter(mine[method].values())):
                    values = _values(mine[method], metric)
                    if values and metric in METRICS:
                        table.append((row_name, method, metric, values, len(values), ""))
    return table


def _best(candidates, mine, metric):
    """The candidate with the best mean, and its values."""
    of = {name: values for name in candidates if (values := _values(mine[name], metric))}
    if not of:
        return None, []
    sign = -1 if metric.endswith("accuracy") else 1
    best = min(of, key=lambda name: sign * np.mean(of[name]))
    return best, of[best]


def _values(by_seed, metric):
    values = [by_seed[seed].get(metric) for seed in sorted(by_seed)]
    return [value for value in values if value is not None]


def text(values, metric, spread):
    """Mean and spread in the paper's units; of one value without spread."""
    if len(values) == 0:
        return "—"
    scale = 100 if metric in PERCENT else 1
    values = scale * np.array(values)
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
    sections, points, figures = [], [], {}
    finished = {table for table, _, _ in found}
    for name in recipes.NAMES:
        asked_for = name in (finished if tables is None else tables)
        if not asked_for and name not in finished:
            continue
        module = recipes.module(name)
        spread = getattr(module, "SPREAD", "95 % confidence interval")
        shown = [
            (row, method, METRICS.get(metric, metric), text(values, metric, spread), str(seeds or ""), paper)
            for row, method, metric, values, seeds, paper in lines(name, found)
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
        points += improvements(name, found)
        figures |= curves(name, histories)
    path = Path(output) / "report.md"
    with results.replacing(path) as temporary:
        temporary.write_text("# Results beside the paper's\n\n" + "\n\n".join(sections) + "\n")
    if points:
        figures["report"] = plots.improvements(points)
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
        runs = {key[2]: list(seeds.values()) for key, seeds in histories.items() if key[:2] == (name, row)}
        for metric in getattr(module, "CURVES", ()) if runs else ():
            scale = 100 if metric in PERCENT else 1
            by_method = {m: _curve([scale * np.array(run[metric]) for run in of]) for m, of in runs.items()}
            title = f"{module.TITLE}\n{row}"
            figures["-".join([name, *row.split("/"), metric])] = draw(by_method, "epoch", CURVES[metric], title)
    return figures


def _curve(values):
    mean, half = mean_and_interval(values)
    return np.arange(1, len(mean) + 1), mean, half


def improvements(name, found):
    """By how much SAM lowers the error, in parts of it: the points of figure 1, left.

    Returns:
        List of tuples: the row, the paper's reduction, and the one found or `None`.
    """
    by_row = {}
    for row, method, metric, values, _, paper in lines(name, found):
        if metric == "test_error" and paper:
            kind = "sam" if method.startswith("sam") else "sgd" if method.startswith("sgd") else None
            mine = float(np.mean(values)) if values else None
            by_row.setdefault(row, {})[kind] = number(paper), mine
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
