"""One run of a recipe: a row of a table, one of its methods, one seed; its result is one JSON file."""

import dataclasses
import json
import os
import time
from pathlib import Path

import keras

from keras_sam.experiments import recipes, results, strategies
from keras_sam.experiments.checkpoints import Checkpoint
from keras_sam.experiments.data import load
from keras_sam.experiments.models import NETWORKS

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# Fields of a row that say which runs there are, and decide no number of one.
_ABOUT_THE_TABLE = {
    "methods": {},
    "published": {},
    "num_seeds": 0,
    "rhos": (),
    "learning_rates": (),
    "weight_decays": (),
}
# Keeps the second training of a bootstrap apart from every first one.
SECOND_SEED = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained.

    Args:
        table: Name of a table or figure, of `recipes.NAMES`.
        row: Name of one of its rows.
        method: Name of one of the row's methods.
        seed: Int, of the weights, the order of the data and the wrong labels. Defaults to `0`.
        rho: Float, in place of the method's ρ. Defaults to `None`.
        learning_rate: Float, in place of the row's. Defaults to `None`.
        weight_decay: Float, in place of the row's. Defaults to `None`.
        held_out: Float, the share of the training set to hold out and to measure the error on, for choosing
            hyperparameters: the test set stays unread. Defaults to `None`, what the row says.
        weights: Path of the pretrained weights, for rows that fine-tune. Defaults to `None`, Keras's own for ImageNet.
        smoke: Boolean, whether to train a small network of the same kind on a few images, in seconds, to see that
            everything works. Defaults to `False`.
        strategy: Key of `strategies.STRATEGIES`. Defaults to `"none"`.
        precision: One of `PRECISIONS`. Defaults to `"float32"`.
    """

    table: str
    row: str
    method: str
    seed: int = 0
    rho: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    held_out: float | None = None
    weights: str | None = None
    smoke: bool = False
    strategy: str = "none"
    precision: str = "float32"

    @property
    def variant(self):
        """What sets this run apart from the paper's: `""` for the recipe as it is."""
        names = "rho", "learning_rate", "weight_decay", "held_out"
        given = [f"{name}={getattr(self, name):g}" for name in names if getattr(self, name) is not None]
        return ",".join([*given, *(["smoke"] if self.smoke else [])])

    def path(self, output):
        """Where the result is, in the folder `output`."""
        return Path(output, self.table, self.row, self.method, self.variant, f"seed-{self.seed}.json")

    def recipe(self):
        """The `Row` and the `Method`, with what this run changes of them."""
        row = recipes.module(self.table).ROWS[self.row]
        method = row.methods[self.method]
        changes = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "held_out")}
        row = dataclasses.replace(row, **{name: value for name, value in changes.items() if value is not None})
        if method.rule is not None:
            config = method.rule.get_config()
            changes = {} if self.rho is None else {"rho": self.rho}
            if "seed" in config:  # random directions differ from seed to seed, as weights do
                changes["seed"] = self.seed
            method = dataclasses.replace(method, rule=type(method.rule).from_config({**config, **changes}))
        if method.stop_early and not row.held_out:
            row = dataclasses.replace(row, held_out=recipes.HELD_OUT)
        if self.smoke:
            return _reduced(row), method
        if row.fine_tune:
            row = dataclasses.replace(row, options={**row.options, "weights": self.weights or "imagenet"})
        return row, method


def _reduced(row):
    """The same recipe for a small network, small images and two short epochs."""
    steps = {"steps": 4} if row.steps else {"epochs": 2}
    options = {**row.options, **NETWORKS[row.network].reduced}
    return dataclasses.replace(row, **steps, batch_size=16, options=options, image_size=row.image_size and 32)


def run(run, output, data_dir=None, download=False):
    """Train, or go on where the training was interrupted; returns what the result's file holds.

    Args:
        run: `Run`.
        output: Folder of all results. Beside its file a run keeps a folder of that name, with checkpoints until it
            ends, and TensorBoard's logs.
        data_dir: Folder of the data sets, as in `data.load`. Defaults to `None`.
        download: Boolean, whether data sets may be downloaded. Defaults to `False`.

    Raises:
        ValueError: If the folder holds what other settings made, or this one's result is impossible.
        FileNotFoundError: If the data are missing.
    """
    row, method = run.recipe()
    path, settings = run.path(output), settings_of(run)
    work = path.with_suffix("")
    if path.exists():
        return read_same(path, settings)
    resumed = (work / "settings.json").exists()
    if resumed:
        read_same(work / "settings.json", settings)

    started = time.monotonic()
    _check_weights(row, download)
    with strategies.scope(run.strategy):
        splits = load(
            row.data,
            seed=run.seed,
            validation=row.held_out,
            num_examples=row.num_examples,
            noise=row.noise,
            data_dir=data_dir,
            download=download,
            stand_in=run.smoke,
        )
        if NETWORKS[row.network].takes_pixels:
            splits = splits.in_pixels()
        # Only now, since it takes its time to import: data that are missing are said at once.
        from keras_sam.experiments import training

        work.mkdir(parents=True, exist_ok=True)
        results.write_json(work / "settings.json", {"settings": settings})
        keras.config.set_dtype_policy(run.precision)
        try:
            model, history = training.train(row, method, splits, run.seed, work / "first")
            if method.bootstrap:
                relabelled = training.relabelled(model, row, splits)
                model, history = training.train(row, method, relabelled, SECOND_SEED + run.seed, work / "second")
            if method.stop_early:
                tested = None if run.held_out else splits
                result = training.stopped_early(model, row, method, tested, history, work / "first")
            else:
                result = training.result(history, "validation" if row.held_out else "test")
        finally:
            keras.config.set_dtype_policy("float32")
    content = {
        "settings": settings,
        "result": result,
        "history": history,
        "seconds": round(time.monotonic() - started, 1),  # of this process, which is not the first if it is resumed
        "resumed": resumed,
        **results.provenance(),
    }
    if row.keep_model:
        model.save(path.with_suffix(".keras"))
    results.write_json(path, content)
    for stage in ("first", "second"):
        Checkpoint(work / stage).delete()
    (work / "first" / training.BEST).unlink(missing_ok=True)
    return content


def settings_of(run):
    """Everything that decides the numbers, as plain data."""
    row, method = run.recipe()
    row = dataclasses.asdict(dataclasses.replace(row, **_ABOUT_THE_TABLE))
    rule = method.rule and {"class_name": type(method.rule).__name__, "config": method.rule.get_config()}
    return json.loads(
        json.dumps(
            {
                "run": dataclasses.asdict(run),
                "row": {name: value for name, value in row.items() if name not in _ABOUT_THE_TABLE},
                "method": {**dataclasses.asdict(dataclasses.replace(method, rule=None)), "rule": rule},
                "backend": keras.backend.backend(),
            }
        )
    )


def _check_weights(row, download):
    """Pretrained weights that are missing are missed before the data are read."""
    weights = row.options.get("weights")
    if weights == "imagenet" and row.network == "efficientnet-l2":
        raise FileNotFoundError(
            "The weights of EfficientNet-L2 are published for TensorFlow 1 alone. Convert NoisyStudent's for 475 "
            "pixels, of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet, to a file as "
            "`save_weights` of this network writes it, and give its path as `--weights`."
        )
    if weights == "imagenet" and not download and row.network != "efficientnet-lite0":
        name = f"{row.network.replace('-', '')}{'_notop' if row.options.get('new_head', True) else ''}.h5"
        found = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / name
        if not found.exists():
            raise FileNotFoundError(
                f"The pretrained weights {found} are missing. Let Keras download them with `--download`, put the file "
                "there, or give the path of another one as `--weights`."
            )
    elif weights not in (None, "imagenet") and not Path(weights).exists():
        raise FileNotFoundError(f"Received `weights={weights!r}`, which is no file; expected pretrained weights.")


def read_same(path, expected):
    """What a file of a run holds.

    Args:
        path: Path of a result, or of the settings beside its checkpoints.
        expected: What `settings_of` returns.

    Raises:
        ValueError: If other settings made it, or it is damaged.
    """
    content = results.read_json(path)
    found = content.get("settings", {})
    different = sorted(
        f"{part}.{name}: {found.get(part, {}).get(name)!r} there, {value!r} here"
        for part in ("run", "row", "method")
        for name, value in expected[part].items()
        if found.get(part, {}).get(name) != value
    )
    if found.get("backend") != expected["backend"]:
        different.append(f"backend: {found.get('backend')!r} there, {expected['backend']!r} here")
    if different:
        raise ValueError(
            f"{path} is of a run with other settings ({'; '.join(different)}). Give another `--output`, or move it "
            "away: no result is overwritten."
        )
    return content
