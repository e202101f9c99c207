"""What every benchmark ends with: a table for the eye, a JSON file for the record and a picture."""

import pathlib

import rich.box
import rich.console
import rich.table

from keras_sam.experiments import results


def save(path, measured):
    """Write what was measured as JSON, with what it takes to measure it again."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    results.write_json(path, {**results.provenance(), **measured})


def save_figure(path, figure):
    """Write a picture beside a JSON file, under its name."""
    with results.replacing(pathlib.Path(path).with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def print_table(title, header, rows, caption=None, file=None):
    """A table whose first column names the row; the others are numbers, already formatted."""
    table = rich.table.Table(title=title, caption=caption, box=rich.box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        table.add_row(*row)
    console = rich.console.Console(file=file)
    if not console.is_terminal:
        console.width = 120
    console.print(table)


def verdict(ratio, limit):
    """The two last cells of a row: the limit and whether the ratio holds it."""
    return ("", "") if limit is None else (f"≤ {limit:.2f}", "yes" if ratio <= limit else "NO")


def failures(rows):
    """The names of the rows, dicts with `ratio` and `limit`, that are over their limit."""
    return [name for name, row in rows.items() if row["limit"] is not None and not row["ratio"] <= row["limit"]]
