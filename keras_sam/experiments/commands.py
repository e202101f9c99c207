"""The commands of `keras-sam`, one function each."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_sam.experiments import demo as demo_experiment
from keras_sam.experiments import rules as rules_experiment

Experiment = Literal["digits", "fashion", "m"]
app = typer.Typer(no_args_is_help=True, add_completion=False, help="Sharpness-Aware Minimization for Keras.")


@app.command()
def demo(
    seeds: Annotated[int, typer.Option(help="Number of random seeds, from 0 on.")] = 3,
    noise: Annotated[float, typer.Option(help="Share of training labels drawn anew.")] = 0.6,
    epochs: Annotated[int, typer.Option(help="Epochs of SAM; SGD gets as many, and twice as many.")] = 60,
    output: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = Path("keras-sam-demo"),
):
    """SGD and SAM on real digits with wrong labels: a table, a picture, and the numbers behind them."""
    _check(seeds >= 1, f"--seeds: received {seeds}, expected a number of at least 1.")
    _check(0 <= noise <= 1, f"--noise: received {noise}, expected a share in [0, 1].")
    _check(epochs >= 1, f"--epochs: received {epochs}, expected a number of at least 1.")
    _make(output)
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
    known = rules_experiment.EXPERIMENTS[experiment].methods
    unknown = sorted(set(method or ()) - set(known))
    _check(not unknown, f"--method: received {unknown}, expected some of {list(known)}.")
    _make(output)
    try:
        rules_experiment.run(experiment, output, only=method)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error


def _make(output):
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"--output: received {output}, expected a folder that can be written ({error})."
        ) from error


def _check(condition, message):
    if not condition:
        raise typer.BadParameter(message)
