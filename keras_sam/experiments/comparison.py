"""Finished runs, read from a folder of results: method beside method, and beside the paper's numbers."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from keras_sam.experiments import recipes, results
from keras_sam.experiments.grid import best_rho
from keras_sam.experiments.runner import Run

METRICS = {
    "test_error": "test error (%)",
    "test_accuracy": "test accuracy (%)",
    "validation_error": "validation error (%)",
    "top5_error": "top-5 error (%)",
    "sharpness_of_error": "sharpness of the error (points)",
    "sharpness_of_loss": "sharpness of the loss",
    "cosine": "cosine",
}


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
        content = results.read_json(path)
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
            "folders of `seed-*.json` that have a seed in common (runs of `--smoke` do not count)."
        )
    table = []
    for metric in METRICS:
        pairs = [(one[seed].get(metric), other[seed].get(metric)) for seed in seeds]
        if all(value is not None for pair in pairs for value in pair):
            values, others = np.transpose(pairs)
            table.append((metric, values, others, values - others))
    return table, seeds


def chosen(name, output):
    """The methods of a table or figure whose ρ was chosen by `keras-sam grid --tune rho` in a folder of results.

    Returns:
        Dict from `(row, method)` to the name under which `read` has that method with its ρ.
    """
    names = {}
    for row_name, row in recipes.module(name).ROWS.items():
        for method in row.published:
            run = Run(table=name, row=row_name, method=method)
            with contextlib.suppress(ValueError):  # nothing was tuned, or not to the end
                rho = best_rho(run, row, output)
                names[row_name, method] = f"{method} ({dataclasses.replace(run, rho=rho).variant})"
    return names


def lines(name, found, chosen=None):
    """The rows of a table or figure, one a method and metric: what the paper prints, and what was found.

    Where the paper prints the best of several trainings (SGD for one and two times the epochs, four α of Mixup), so
    does this. A method whose ρ was chosen stands with that one, whatever others have found.

    Args:
        name: A table or figure.
        found: What `read` returns.
        chosen: What `chosen` returns. Defaults to `None`, no method's.

    Returns:
        List of tuples as `COLUMNS` names them; "here" is the list of values by seed.
    """
    table = []
    for row_name, row in recipes.module(name).ROWS.items():
        mine = {method: seeds for (table_, row_, method), seeds in found.items() if (table_, row_) == (name, row_name)}
        told = set()
        for method, published in row.published.items():
            tuned = (chosen or {}).get((row_name, method))
            # Without those that try a value in place of the recipe's.
            candidates = [m for m in mine if m == method or (m.startswith(f"{method}-") and "(" not in m)]
            candidates = [tuned] if tuned in mine else candidates
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
