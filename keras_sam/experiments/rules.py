"""Which rule to use: all of them on the same data, each with the ρ that a clean validation split chose.

Command: `keras-sam rules digits`, `fashion` or `m`. SGD with momentum 0.9, learning rate 0.1 with cosine decay,
batches of 128, weight decay 5e-4, no augmentation. Each method tries three values of ρ on seeds that are not used
again, and where the best of them is the largest (the smallest), up to four more, each twice (half) the last; the best
by accuracy on validation images with clean labels then trains on seeds 0 to 4. SGD gets the epochs of the rules, and
twice as many. After every run the results are on disk, and a command that was interrupted goes on.

Expect on one CPU core an hour and a half for `digits` (40 % of the labels drawn anew: SAM far ahead of SGD), half an
hour for `m`, and three to nine hours for `fashion` (5,000 images with clean labels, of which SGD fits every one in 20
epochs: differences of half a point).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_sam
from keras_sam import SAM
from keras_sam.experiments import results
from keras_sam.experiments.data import digits, fashion_mnist
from keras_sam.experiments.models.small_cnn import small_cnn
from keras_sam.experiments.models.small_resnet import small_resnet
from keras_sam.experiments.recipes import control
from keras_sam.experiments.statistics import percent

BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.1, 0.9, 5e-4
SMALLER_M = 16
MORE_RHOS = 4


class Method(NamedTuple):
    """A row: `rule` makes one from ρ, or is `None` for SGD.

    Args:
        rule: Function from ρ to what is passed to `compile(sam=…)`, or `None`.
        rhos: Values of ρ to begin to choose from, see `choose`; one value is taken as it is.
        epochs: Float, in units of the experiment's epochs. Defaults to `1`.
        options: Optional dict, arguments of the network. Defaults to `{}`.
    """

    rule: Callable | None
    rhos: tuple = (0.0,)
    epochs: float = 1
    options: dict = {}  # noqa: RUF012


class Experiment(NamedTuple):
    """What all methods share.

    Args:
        load: Function from a seed to `Split`s for training, validation and test.
        network: Function of `(cls, input_shape, num_classes, weight_decay)` that makes a model.
        epochs: Int.
        methods: Dict from names to `Method`.
        choosing_seeds: Ints, the seeds whose validation accuracy chooses ρ.
        seeds: Ints, the seeds that count.
    """

    load: Callable
    network: Callable
    epochs: int
    methods: dict
    choosing_seeds: tuple
    seeds: tuple = (0, 1, 2, 3, 4)


def methods(rhos):
    """Every rule, for a network on which `rhos` suits SAM."""
    larger = tuple(5 * rho for rho in rhos)
    return {
        "SGD": Method(None),
        "SGD, 2x epochs": Method(None, epochs=2),
        "SAM": Method(SAM, rhos),
        "SAM, ascent_fraction=0.25": Method(lambda rho: SAM(rho, ascent_fraction=0.25), rhos),
        "SAM, EveryK(k=5)": Method(lambda rho: SAM(keras_sam.schedules.EveryK(rho, 5)), rhos),
        "SAM-ON": Method(lambda rho: SAM(rho, where="(gamma|beta)$"), rhos),
        "ASAM": Method(keras_sam.ASAM, larger),
        "GSAM": Method(keras_sam.GSAM, rhos),
        "FriendlySAM": Method(keras_sam.FriendlySAM, rhos),
        "LookSAM": Method(keras_sam.LookSAM, rhos),
        "MSAM": Method(keras_sam.MSAM, larger),
        "RandomPerturbation": Method(keras_sam.RandomPerturbation, larger),
    }


def _methods_of_m():
    of_m = {}
    # Without BatchNormalization the net hardly trains with SAM at 0.1 and above.
    for name, rhos, options in [("", (0.1, 0.2, 0.5), {}), (" (no BN)", (0.01, 0.02, 0.05), {"normalize": False})]:
        of_m |= {
            f"SGD{name}": Method(None, options=options),
            f"m={SMALLER_M} without SAM{name}": Method(lambda rho: control(SMALLER_M), options=options),
            f"SAM{name}": Method(SAM, rhos, options=options),
            f"SAM, m={SMALLER_M}{name}": Method(lambda rho: SAM(rho, m=SMALLER_M), rhos, options=options),
        }
    return of_m


EXPERIMENTS = {
    "digits": Experiment(
        lambda seed: digits.load(0.4, seed), small_cnn, 60, methods((0.1, 0.2, 0.5)), choosing_seeds=(100, 101)
    ),
    "fashion": Experiment(
        lambda seed: fashion_mnist.load(0.0, seed), small_resnet, 20, methods((0.05, 0.1, 0.2)), choosing_seeds=(100,)
    ),
    "m": Experiment(lambda seed: digits.load(0.4, seed), small_cnn, 60, _methods_of_m(), choosing_seeds=(100, 101)),
}


def run(name, output, only=None, console=None):
    """Train what is not there yet, print the table, keep `rules_{name}.json` up to date; returns what it holds.

    Args:
        name: Key of `EXPERIMENTS`.
        output: Folder of the file.
        only: Names of methods, to train no others. Defaults to `None`, all.
        console: `rich.console.Console`. Defaults to a new one.

    Raises:
        ValueError: If the file has runs of another backend.
    """
    console, experiment, backend = console or Console(), EXPERIMENTS[name], keras.backend.backend()
    path = Path(output) / f"rules_{name}.json"
    content: dict[str, Any] = {"runs": {}, "rows": {}}

    def read():
        # With what other processes have added or chosen anew, each of its own methods.
        there = results.read_json(path) if path.exists() else {}
        if there.get("backend", backend) != backend:
            raise ValueError(
                f"{path} has runs of Keras's backend {there['backend']!r}, and this one is {backend!r}: methods would "
                "be compared between them. Give another `--output`, or move it away."
            )
        content.update(there)

    def write(part, name, value):
        read()
        content[part][name] = value
        # With what made the last run; every run has its commit.
        content.update(results.provenance())
        results.write_json(path, content)

    def accuracy(method, rho, seed):
        key = f"{method} | rho={rho} | seed={seed}"
        if key not in content["runs"]:
            started = time.monotonic()
            numbers = train(experiment, experiment.methods[method], rho, seed)
            seconds = round(time.monotonic() - started, 1)
            write("runs", key, {**numbers, "seconds": seconds, "commit": results.COMMIT})
            console.print(f"{key:50} test accuracy {numbers['test']:6.2%} ({seconds:.0f} s)")
        return content["runs"][key]

    read()
    for method, (_, rhos, *_) in experiment.methods.items():
        if only and method not in only:
            continue
        rho, tried = choose(
            lambda rho, method=method: np.mean(
                [accuracy(method, rho, seed)["validation"] for seed in experiment.choosing_seeds]
            ),
            rhos,
        )
        tests = [accuracy(method, rho, seed)["test"] for seed in experiment.seeds]
        row = {"rho": rho, "rhos": tried, "test": tests}
        if content["rows"].get(method) != row:
            write("rows", method, row)
    console.print(table(content["rows"], name))
    return content


def choose(validation, rhos):
    """The ρ of the best validation accuracy, and all that were tried, from the smallest to the largest.

    While the best is the largest of them (the smallest), twice (half) of it is tried as well, `MORE_RHOS` times at
    most. A single value is taken without a try.
    """
    if len(rhos) == 1:
        return rhos[0], list(rhos)
    by_rho = {}
    more = list(rhos)
    for _ in range(1 + MORE_RHOS):
        by_rho |= {rho: validation(rho) for rho in more}
        tried = sorted(by_rho)
        best = max(tried, key=by_rho.get)
        if tried[0] < best < tried[-1]:
            break
        more = [2 * best if best == tried[-1] else best / 2]
    return best, tried


def train(experiment, method, rho, seed):
    """One run; returns the final accuracy on training, validation and test images."""
    train, validation, test = experiment.load(seed)
    keras.utils.set_random_seed(seed)
    model = experiment.network(keras_sam.SAMModel, train.x.shape[1:], 10, WEIGHT_DECAY, **method.options)
    epochs = round(method.epochs * experiment.epochs)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * -(-len(train.x) // BATCH_SIZE))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=None if method.rule is None else method.rule(rho),
    )
    fitted = model.fit(train.x, train.y, BATCH_SIZE, epochs, verbose=0).history
    evaluated = {
        name: model.evaluate(split.x, split.y, batch_size=1000, verbose=0, return_dict=True)["accuracy"]
        for name, split in [("validation", validation), ("test", test)]
    }
    return {"train": fitted["accuracy"][-1], **evaluated}


def table(rows, name):
    """Test accuracy by method, and by how much it is above SGD and SAM, or the first row, paired by seed."""
    bases = [base for base in ("SGD, 2x epochs", "SAM") if base in rows] or [next(iter(rows))]
    columns = "Method", "ρ", "Test accuracy (%), mean ± 95 % CI", *(f"against {base}" for base in bases)
    result = Table(*columns, title=f"keras-sam rules {name}", caption="ρ* is at the edge of the values tried.")
    for method, row in rows.items():
        edge = "*" if len(row["rhos"]) > 1 and row["rho"] in (row["rhos"][0], row["rhos"][-1]) else ""
        rho = f"{row['rho']:g}{edge}" if row["rho"] else ""
        leads = ("" if method == base else percent(np.subtract(row["test"], rows[base]["test"])) for base in bases)
        result.add_row(method, rho, percent(row["test"]), *leads)
    return result
