"""The commands of `keras-sam`, one function each."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from keras_sam.experiments import analysis, comparison, recipes, runner
from keras_sam.experiments import demo as demo_experiment
from keras_sam.experiments import grid as grid_of_runs
from keras_sam.experiments import report as reports
from keras_sam.experiments import rules as rules_experiment
from keras_sam.experiments.arguments import check, check_name, make, readable
from keras_sam.experiments.strategies import STRATEGIES

Experiment = StrEnum("Experiment", {name: name for name in rules_experiment.EXPERIMENTS})
Strategy = StrEnum("Strategy", {name: name for name in STRATEGIES})
Precision = StrEnum("Precision", {name: name for name in runner.PRECISIONS})
Split = StrEnum("Split", {name: name for name in analysis.SPLITS})
Scale = StrEnum("Scale", {name: name for name in analysis.SCALES})
Tune = StrEnum("Tune", {name: name for name in grid_of_runs.TUNE})

OfTable = Annotated[str, typer.Argument(help="A table or figure of the paper; `keras-sam list` names them.")]
OfSmoke = Annotated[bool, typer.Option(help="A small network of the same kind, a few images: does all of it run?")]
OfStrategy = Annotated[Strategy, typer.Option(help="How to spread a run over devices.")]
OfPrecision = Annotated[Precision, typer.Option("--precision", "--mixed-precision", help="Keras's dtype policy.")]
OfOutput = Annotated[Path, typer.Option(help="Folder of all results.")]
OfDataDir = Annotated[Path | None, typer.Option(help="Folder of the data sets; as tensorflow-datasets has it.")]
OfDownload = Annotated[bool, typer.Option(help="Download data sets that are not there.")]
app = typer.Typer(no_args_is_help=True, add_completion=False, help="Sharpness-Aware Minimization for Keras.")


@app.command()
def demo(
    seeds: Annotated[int, typer.Option(help="Number of random seeds, from 0 on.")] = 3,
    noise: Annotated[float, typer.Option(help="Share of training labels drawn anew.")] = 0.6,
    epochs: Annotated[int, typer.Option(help="Epochs of SAM; SGD gets as many, and twice as many.")] = 60,
    output: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = Path("keras-sam-demo"),
):
    """SGD and SAM on real digits with wrong labels: a table, a picture, and the numbers behind them."""
    check(seeds >= 1, f"--seeds: received {seeds}, expected a number of at least 1.")
    check(0 <= noise <= 1, f"--noise: received {noise}, expected a share in [0, 1].")
    check(epochs >= 1, f"--epochs: received {epochs}, expected a number of at least 1.")
    make(output)
    demo_experiment.run(seeds=seeds, noise=noise, epochs=epochs, output=output)


@app.command()
def rules(
    experiment: Annotated[
        Experiment, typer.Argument(help="digits: 40 % wrong labels; fashion: clean; m: the effect of m.")
    ],
    method: Annotated[list[str] | None, typer.Option(help="Train this method alone; can be given again.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the results, which a later run adds to.")] = Path("results"),
):
    """Every rule on the same data, each with the rho that a clean validation split chose: a table."""
    known = rules_experiment.EXPERIMENTS[experiment.value].methods
    unknown = sorted(set(method or ()) - set(known))
    check(not unknown, f"--method: received {unknown}, expected some of {list(known)}.")
    make(output)
    with readable():
        rules_experiment.run(experiment.value, output, only=method)


@app.command("list")
def list_(table: Annotated[str | None, typer.Argument(help="A table or figure, to see its rows.")] = None):
    """The tables and figures that can be run; or the rows of one, with the paper's numbers."""
    console = Console()
    if table is None:
        shown = Table("name", "rows", "what")
        for name in recipes.NAMES:
            module = recipes.module(name)
            shown.add_row(name, str(len(module.ROWS)), module.TITLE)
        console.print(shown)
        return
    console.print(reports.recipe(_module(table)))


@app.command()
def run(
    table: OfTable,
    row: Annotated[str, typer.Option(help="A row of it.")],
    method: Annotated[str, typer.Option(help="How to train: sam, sgd, sgd-2x, …")] = "sam",
    seed: int = 0,
    rho: Annotated[float | None, typer.Option(min=0, help="In place of the method's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="In place of the row's.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="In place of the row's.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the training set to measure the error on.")] = None,
    weights: Annotated[str | None, typer.Option(help="Path of pretrained weights, for rows that fine-tune.")] = None,
    smoke: OfSmoke = False,
    strategy: OfStrategy = Strategy.none,
    precision: OfPrecision = Precision.float32,
    output: OfOutput = Path("results"),
    data_dir: OfDataDir = None,
    download: OfDownload = False,
):
    """Train one row of a table with one method; goes on where it was interrupted."""
    _check_names(table, [row], [method])
    check(
        rho is None or recipes.module(table).ROWS[row].methods[method].has_rho,
        f"--rho: received {rho}, but the method {method!r} has no ρ. Leave it out, or give another --method.",
    )
    check(
        weights is None or (recipes.module(table).ROWS[row].fine_tune and not smoke),
        f"--weights: received {weights}, which only rows that fine-tune read, without --smoke. Leave it out.",
    )
    check(seed >= 0, f"--seed: received {seed}, expected a number of at least 0.")
    check(held_out is None or 0 < held_out < 1, f"--held-out: received {held_out}, expected a share in (0, 1).")
    make(output)
    one = runner.Run(
        table=table,
        row=row,
        method=method,
        seed=seed,
        rho=rho,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        held_out=held_out,
        weights=weights,
        smoke=smoke,
        strategy=strategy.value,
        precision=precision.value,
    )
    with readable():
        content = runner.run(one, output, data_dir, download)
    published = recipes.module(table).ROWS[row].published.get(method, {})
    shown = Table("metric", "here", "paper", title=f"{table} {row} {method}, seed {seed}{', smoke' if smoke else ''}")
    for name, value in content["result"].items():
        paper = "" if smoke else published.get(name, "")
        shown.add_row(comparison.METRICS.get(name, name), reports.text([value], name, None), paper)
    console = Console()
    console.print(shown)
    console.print(f"{one.path(output)}")


@app.command()
def grid(
    table: OfTable,
    row: Annotated[list[str] | None, typer.Option(help="A row; can be given again. All without.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="A method; can be given again. All without.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds, from 0 on; as many as in the paper without.")] = None,
    tune: Annotated[
        Tune | None, typer.Option(help="Choose rho of SAM, or learning rate and weight decay of SGD, by held-out data.")
    ] = None,
    tuned: Annotated[bool, typer.Option(help="Take the rho that --tune rho found in the output folder.")] = False,
    smoke: OfSmoke = False,
    strategy: OfStrategy = Strategy.none,
    precision: OfPrecision = Precision.float32,
    output: OfOutput = Path("results"),
    data_dir: OfDataDir = None,
    download: OfDownload = False,
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time on this machine.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, in place of this machine.")] = None,
    cpus: Annotated[float, typer.Option(help="CPUs that a run asks Ray for.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs that a run asks Ray for.")] = 0,
):
    """Train many rows, methods and seeds, each run in its own process; runs that ended are not made again."""
    _check_names(table, row or [], method or [])
    check(not (tune and tuned), "--tuned: received --tune too, expected one of them.")
    make(output)
    options = {"smoke": smoke, "strategy": strategy.value, "precision": precision.value}
    console = Console()
    with readable():
        runs = grid_of_runs.expand(table, row, method, seeds, tune and tune.value, output if tuned else None, **options)
        failed = grid_of_runs.execute(
            runs, output, workers, ray, cpus, gpus, console, data_dir=data_dir, download=download
        )
    for one, printed in failed.items():
        console.print(f"{one.path(output)} failed:", style="bold", markup=False)
        console.print(printed, markup=False, highlight=False)
    if not smoke:
        reports.write(output, console, [table])
    raise typer.Exit(bool(failed))


@app.command()
def sharpness(
    model: Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A compiled model that `model.save` wrote.")],
    dataset: Annotated[str, typer.Argument(help="A data set's name: digits, fashion_mnist, cifar10, …")],
    split: Annotated[Split, typer.Option(help="Which part of it.")] = Split.train,
    num_examples: Annotated[int, typer.Option(min=2, help="The first so many examples.")] = 1000,
    scale: Annotated[
        Scale, typer.Option(help="What the model was fed: by mean and deviation as `run` does, 0 to 255, or 0 to 1.")
    ] = Scale.normalized,
    rho: Annotated[list[float] | None, typer.Option(help="A radius; can be given again.")] = None,
    m: Annotated[int | None, typer.Option(min=1, help="How many examples share one ε̂; all without.")] = None,
    k: Annotated[int, typer.Option(min=1, help="How many eigenvalues.")] = 5,
    order: Annotated[int, typer.Option(min=1, help="Steps of Lanczos for the density.")] = 80,
    points: Annotated[int, typer.Option(min=2, help="Of each axis of the landscape.")] = 21,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in memory at a time.")] = 256,
    seed: int = 0,
    output: Annotated[Path, typer.Option(help="Folder for the numbers and the pictures.")] = Path("sharpness"),
    data_dir: OfDataDir = None,
    download: OfDownload = False,
):
    """How sharp a model's minimum is: eigenvalues, m-sharpness, a bound, and the spectrum and landscape as pictures."""
    make(output)
    measures = {"rho": rho or analysis.RHOS, "m": m, "k": k, "order": order, "points": points, "seed": seed}
    where = {"data_dir": data_dir, "download": download}
    with readable():
        loaded = analysis.load_model(model)
        data = analysis.examples(loaded, dataset, split.value, num_examples, scale.value, batch_size, **where)
        content = analysis.run(loaded, data, **measures)
        paths = analysis.write(content, output, model.stem, dataset)
    console = Console()
    title = f"{model.name} on {content['num_examples']} examples of {dataset}"
    console.print(analysis.table(content, title), *map(str, paths), sep="\n")


@app.command()
def report(output: OfOutput = Path("results")):
    """All results beside the paper's numbers: on the screen, in report.md, and as pictures (figure 1, curves)."""
    check(output.is_dir(), f"--output: received {output}, expected a folder of results that `keras-sam run` made.")
    console = Console()
    with readable():
        console.print(f"{reports.write(output, console)}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of one method's runs: results/small-table4/noise-40/sgd.")],
    second: Annotated[Path, typer.Argument(help="Folder of another's.")],
):
    """Two methods, seed by seed: by how much the first is above the second, with the interval of that."""
    with readable():
        table, seeds = comparison.paired(first, second)
    caption = f"mean ± 95 % confidence interval over seeds {', '.join(map(str, seeds))}"
    shown = Table("metric", "first", "second", "first − second, paired", caption=caption)
    for metric, *values in table:
        shown.add_row(comparison.METRICS[metric], *(reports.text(v, metric, None) for v in values))
    Console().print(shown)


def _check_names(table, rows, methods):
    known = _module(table).ROWS
    for row in rows:
        check_name("--row", row, known)
    for method in methods:
        check_name("--method", method, list(dict.fromkeys(m for row in rows or known for m in known[row].methods)))


def _module(table):
    check_name("TABLE", table, recipes.NAMES)
    return recipes.module(table)
