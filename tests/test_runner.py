"""Every row can be trained by the same code; a killed run ends as one that was not; no result is overwritten."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_architectures import in_few_steps

from keras_sam.experiments import recipes, runner, training
from keras_sam.experiments.data import load, pipelines
from keras_sam.experiments.models import NETWORKS
from keras_sam.experiments.runner import Run

ROWS = [(table, name) for table in recipes.NAMES for name in recipes.module(table).ROWS]
# The cheapest.
SMALL = Run(table="table4", row="noise-40", method="sgd", smoke=True)


@functools.cache
def loaded(data, held_out, noise):
    return load(data, validation=held_out, noise=noise, stand_in=True)


@functools.cache
def element_spec(data, augmentation, image_size, one_hot, mixup, held_out, noise):
    splits = loaded(data, held_out, noise)
    options = {"image_size": image_size, "one_hot": one_hot}
    training = pipelines.pipeline(splits, 16, augmentation, mixup=mixup, **options)
    return training.element_spec, pipelines.evaluation(splits, splits.test, 16, **options).element_spec


@functools.cache
def built(network, shape, options):
    options = {**NETWORKS[network].options, **NETWORKS[network].reduced, **dict(options)}
    return NETWORKS[network].build(keras.Model, shape, 10, **options)


@pytest.mark.parametrize("table", recipes.NAMES)
def test_the_data_and_the_network_of_every_row_fit_together(table):
    for name, row in recipes.module(table).ROWS.items():
        splits = loaded(row.data, row.held_out, row.noise)
        size = row.image_size and 32
        shape = (size, size, 3) if size else splits.image_shape
        small = {key: value for key, value in row.options.items() if key not in NETWORKS[row.network].reduced}
        model = built(row.network, shape, tuple(small.items()))
        assert (model.input_shape, model.output_shape) == ((None, *shape), (None, 10)), name
        for method in row.methods.values():
            one_hot = bool(method.mixup or row.label_smoothing)
            training, evaluated = element_spec(
                row.data, row.augmentation, size, one_hot, method.mixup, row.held_out, row.noise
            )
            assert training[0].shape == (16, *shape)
            assert evaluated[0].shape[1:] == shape
            assert training[0].dtype == evaluated[0].dtype == "float32"
            labels = (16, splits.num_classes) if one_hot else (16,)
            assert training[1].shape == labels
            assert evaluated[1].shape[1:] == labels[1:]


def test_what_is_measured_is_part_of_the_result(monkeypatch, tmp_path):
    in_few_steps(monkeypatch)
    run = Run(table="table12", row="wrn-28-10/cifar10", method="steps-1", smoke=True)
    monkeypatch.setattr(training, "MEASURED_BATCHES", 1)
    result = runner.run(run, tmp_path)["result"]
    assert set(result) >= {"test_error", "perturbed_error", "sharpness_of_error", "sharpness_of_loss"}


def test_stopping_early_keeps_the_best_epoch_of_the_held_out_part(monkeypatch, tmp_path):
    reduced = runner._reduced
    monkeypatch.setattr(runner, "_reduced", lambda row: dataclasses.replace(reduced(row), batch_size=64, epochs=3))
    run = dataclasses.replace(SMALL, table="small-table4", method="sgd-stopped")
    accuracies, weights = [], []

    class Watched(training.Checkpoint):
        """The weights of every epoch; in the second one a validation accuracy that none beats."""

        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())
            super().on_epoch_end(epoch, logs)

    class Best(keras.callbacks.ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_accuracy"] = float(epoch == 1)
            super().on_epoch_end(epoch, logs)

    def evaluate(model, *args, **kwargs):
        accuracies.append(model.get_weights())
        return original(model, *args, **kwargs)

    original = training.keras_sam.SAMModel.evaluate
    monkeypatch.setattr(training, "Checkpoint", Watched)
    monkeypatch.setattr(keras.callbacks, "ModelCheckpoint", Best)
    monkeypatch.setattr(training.keras_sam.SAMModel, "evaluate", evaluate)
    content = runner.run(run, tmp_path)
    assert content["result"]["stopped_at_epoch"] == 2
    assert content["result"]["validation_error"] == 0
    assert content["settings"]["row"]["held_out"] == 0.1
    for got, want in zip(accuracies[-1], weights[1], strict=True):
        np.testing.assert_array_equal(got, want)
    assert not list(tmp_path.rglob("*.weights.h5"))
    # Where hyperparameters are chosen the test set stays unread.
    tuned = runner.run(dataclasses.replace(run, held_out=0.1), tmp_path)
    numbers = {name: value for name, value in content["result"].items() if not name.startswith("test")}
    assert tuned["result"] == pytest.approx(numbers)


def test_weight_decay_is_half_of_the_squares_of_all_weights_in_the_loss():
    row, method = SMALL.recipe()
    splits = load(row.data, stand_in=True)
    model = training.build(row, method, splits, steps=10)
    x = splits.train.x[:2].astype("float32")
    penalty = sum(float(loss) for loss in _losses(model, x))
    squares = sum(np.sum(np.square(w.astype("float64"))) for w in map(np.array, model.trainable_variables))
    assert penalty == pytest.approx(0.0005 / 2 * squares, rel=1e-5)
    assert {v.name for v in model.trainable_variables} >= {"kernel", "gamma", "beta", "bias"}


def _losses(model, x):
    model(x, training=True)
    return model.losses


@pytest.mark.parametrize(("table", "row"), [("figure3-left", "wrn-40-10-no-bn/cifar10"), ("table4", "noise-40")])
def test_the_file_of_a_model_has_its_weight_decay(table, row, tmp_path):
    row = runner._reduced(recipes.module(table).ROWS[row])
    splits = loaded(row.data, row.held_out, row.noise)
    model = training.build(row, row.methods["sgd"], splits, 1)
    model.save(tmp_path / "model.keras")
    there = keras.saving.load_model(tmp_path / "model.keras")
    squares = sum(float(keras.ops.sum(keras.ops.square(v))) for v in there.trainable_variables)
    assert float(sum(there.losses)) == pytest.approx(0.5 * row.weight_decay * squares, rel=1e-5)


def test_a_run_that_diverged_is_not_gone_on_with(monkeypatch, tmp_path):
    row = dataclasses.replace(runner._reduced(recipes.module("table4").ROWS["noise-40"]), epochs=3, learning_rate=1e30)
    splits = loaded(row.data, row.held_out, row.noise)
    for _ in range(2):
        _, history = training.train(row, row.methods["sgd"], splits, 0, tmp_path)
        assert len(history["loss"]) == 1
        assert not np.isfinite(history["loss"][0])


def test_the_optimizer_of_the_reference():
    row, method = SMALL.recipe()
    model = training.build(row, method, load(row.data, stand_in=True), steps=10)
    config = model.optimizer.get_config()
    assert config.items() >= {"momentum": 0.9, "nesterov": True, "global_clipnorm": 5.0, "weight_decay": None}.items()
    rates = [float(model.optimizer._learning_rate(step)) for step in (0, 5, 10)]
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.0], atol=1e-8)


def test_values_in_place_of_the_recipes():
    run = dataclasses.replace(SMALL, method="sam", rho=0.3, learning_rate=0.7, weight_decay=0.2, held_out=0.25)
    row, method = run.recipe()
    assert (row.learning_rate, row.weight_decay, row.held_out) == (0.7, 0.2, 0.25)
    assert (method.rule.rho, method.rule.m) == (0.3, 32)
    assert str(run.path("r")) == (
        "r/table4/noise-40/sam/rho=0.3,learning_rate=0.7,weight_decay=0.2,held_out=0.25,smoke/seed-0.json"
    )
    assert (
        str(Run(table="table4", row="noise-40", method="sam", seed=4).path("r")) == "r/table4/noise-40/sam/seed-4.json"
    )


def test_random_directions_are_of_the_run_s_seed():
    for seed in (0, 3):
        run = Run(table="small-figure6", row="noise-40", method="random/rho-1", seed=seed)
        assert run.recipe()[1].rule.get_config()["seed"] == seed
        assert runner.settings_of(run)["method"]["rule"]["config"]["seed"] == seed


def test_networks_that_take_pixels_have_them_cut_by_their_mean(monkeypatch, tmp_path):
    """Cutout leaves the data set's mean, which is 0 where images are normalized."""
    given = []
    monkeypatch.setattr(training, "train", lambda row, method, splits, *args: given.append((row, splits)) or 1 / 0)
    for table, row in (("table3", "efficientnet-b7/cifar10"), ("table1", "wrn-28-10/cutout/cifar10")):
        with pytest.raises(ZeroDivisionError):
            runner.run(Run(table=table, row=row, method="sam", smoke=True), tmp_path)
    means = loaded("cifar10", 0.0, 0.0).normalization[0]
    for (_, splits), fill, rest in zip(given, (means, np.zeros(3)), (200.0, None)):
        grey = splits.train._replace(x=np.full_like(splits.train.x, 200))
        images = next(iter(pipelines.pipeline(splits._replace(train=grey), 16, "basic+cutout")))[0].numpy()
        rest = (200 - means) / splits.normalization[1] if rest is None else np.full(3, rest)
        is_cut = np.abs(images - fill).max(-1) < 1e-3
        assert 0.05 < is_cut.mean() < 0.26
        np.testing.assert_allclose(images[~is_cut], np.broadcast_to(rest, images[~is_cut].shape), rtol=1e-5)


@pytest.mark.parametrize("table", recipes.NAMES)
def test_the_settings_of_every_run_are_plain_data(table):
    for name, row in recipes.module(table).ROWS.items():
        for method in row.methods:
            settings = runner.settings_of(Run(table=table, row=name, method=method))
            assert settings["row"]["learning_rate"] == row.learning_rate
            assert (settings["method"]["rule"] is None) == (row.methods[method].rule is None)


def test_steps_are_made_to_the_number():
    row = recipes.module("table3").ROWS["efficientnet-b7/cifar10"]
    steps, epochs = training.length(row, row.methods["sam"], load("cifar10", stand_in=True))
    assert steps * epochs == 5000


KILLED = """
import os, signal, sys
from keras_sam.experiments import checkpoints, runner, training

class Killed(checkpoints.Checkpoint):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if "second" in str(self.folder) and epoch == 0:
            os.kill(os.getpid(), signal.SIGKILL)

training.Checkpoint = Killed
runner.run(runner.Run(table="table4", row="noise-40", method="bootstrap-mixup-8", smoke=True), sys.argv[1])
"""


def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    run = dataclasses.replace(SMALL, method="bootstrap-mixup-8")
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment, capture_output=True
    )
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert not run.path(tmp_path / "killed").exists()
    whole, resumed = (runner.run(run, tmp_path / name) for name in ("whole", "killed"))
    assert resumed["history"] == whole["history"]
    assert resumed["result"] == whole["result"]
    assert (whole["resumed"], resumed["resumed"]) == (False, True)
    assert [len(values) for values in resumed["history"].values()] == [2] * len(resumed["history"])


def test_a_result_is_never_overwritten(monkeypatch, tmp_path):
    path = SMALL.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": runner.settings_of(SMALL), "result": {"test_error": 0.25}}))
    monkeypatch.setattr(training, "train", None)
    assert runner.run(SMALL, tmp_path)["result"] == {"test_error": 0.25}
    other = dataclasses.replace(SMALL, precision="mixed_bfloat16")
    with pytest.raises(ValueError, match=r"run.precision: 'float32' there, 'mixed_bfloat16' here.*`--output`"):
        runner.run(other, tmp_path)


def test_checkpoints_of_other_settings_are_not_taken_up(monkeypatch, tmp_path):
    class StopError(Exception):
        pass

    def stop(*args):
        raise StopError

    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(StopError):
        runner.run(SMALL, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        runner.run(dataclasses.replace(SMALL, strategy="mirrored"), tmp_path)
    assert keras.config.dtype_policy().name == "float32"


def test_missing_weights_are_missed_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(runner, "load", None)
    with pytest.raises(FileNotFoundError, match=r"models/efficientnetb7_notop\.h5.*--download.*--weights"):
        runner.run(Run(table="table3", row="efficientnet-b7/cars196", method="sam"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"models/efficientnetb7\.h5"):
        runner.run(Run(table="table3", row="efficientnet-b7/imagenet2012", method="sam"), tmp_path)
    with pytest.raises(FileNotFoundError, match="EfficientNet-L2"):
        runner.run(Run(table="table3", row="efficientnet-l2/cars196", method="sam"), tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        runner.run(Run(table="table3", row="efficientnet-l2/cars196", method="sam", weights="nowhere"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_strategy_of_another_backend(tmp_path):
    name = "mirrored" if keras.backend.backend() != "tensorflow" else "data-parallel"
    with pytest.raises(ValueError, match=f"`strategy='{name}'`.*KERAS_BACKEND="):
        runner.run(dataclasses.replace(SMALL, strategy=name), tmp_path)


def test_what_a_table_tries_is_no_setting_of_a_run(monkeypatch):
    """Else a grid that is widened would refuse what it has trained."""
    run = Run(table="small-table4", row="noise-40", method="sgd")
    before = runner.settings_of(run)
    rows = recipes.module("small-table4").ROWS
    monkeypatch.setitem(rows, "noise-40", dataclasses.replace(rows["noise-40"], rhos=(0.3,), num_seeds=7))
    assert runner.settings_of(run) == before
    monkeypatch.setitem(rows, "noise-40", dataclasses.replace(rows["noise-40"], noise=0.3))
    assert runner.settings_of(run) != before
