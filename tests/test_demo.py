"""The demo's data, choices and files; its real run is README's first command."""

import json
import re
import sys
import types

import keras
import numpy as np
import pytest
from nets import linear_net
from typer.testing import CliRunner

import keras_sam
from keras_sam.experiments import demo, main, results
from keras_sam.experiments.commands import app
from keras_sam.experiments.data import digits
from keras_sam.experiments.statistics import mean_and_interval


def test_the_splits_are_the_whole_data_set_once():
    splits = digits.load()
    assert [split.x.shape for split in splits] == [(768, 8, 8, 1), (232, 8, 8, 1), (797, 8, 8, 1)]
    images = np.concatenate([split.x for split in splits]).reshape(1797, 64)
    original = digits.load_digits().data.astype("float32") / 16
    np.testing.assert_array_equal(np.unique(images, axis=0), np.unique(original, axis=0))


def test_noise_touches_training_labels_alone():
    clean, noisy = digits.load(), digits.load(noise=0.6, seed=1)
    for before, after in zip(clean, noisy):
        np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(clean[1].y, noisy[1].y)
    np.testing.assert_array_equal(clean[2].y, noisy[2].y)
    # 461 of 768 are drawn anew, and one in ten of those keeps its label.
    assert 0.48 < (clean[0].y != noisy[0].y).mean() < 0.6


@pytest.mark.parametrize("noise", [0.0, 0.25, 1.0])
def test_noise_draws_its_exact_share_anew_uniformly_and_the_same_for_a_seed(noise):
    labels = np.full(4000, 10)  # a class that is never drawn, so that every draw shows
    noisy = digits.with_symmetric_noise(labels, noise, num_classes=10, seed=3)
    assert (noisy != 10).sum() == 4000 * noise
    np.testing.assert_array_equal(noisy, digits.with_symmetric_noise(labels, noise, 10, seed=3))
    if noise:
        counts = np.bincount(noisy[noisy != 10], minlength=10)
        assert np.abs(counts - 400 * noise).max() < 5 * np.sqrt(400 * noise)
        assert (noisy != digits.with_symmetric_noise(labels, noise, 10, seed=4)).any()
    assert (labels == 10).all()


def test_the_interval_is_students():
    mean, interval = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    np.testing.assert_allclose(interval, 4.302653 / np.sqrt(3), rtol=1e-6)  # t(0.975, 2) times the standard error
    assert mean_and_interval([7.0]) == (7.0, 0.0)


@pytest.fixture
def few_digits(monkeypatch):
    """Two batches of training images and a few others, with the noise of all."""
    load = digits.load

    def cut(*args):
        train, *others = load(*args)
        return digits.Split(train.x[:256], train.y[:256]), *(digits.Split(s.x[:64], s.y[:64]) for s in others)

    monkeypatch.setattr(digits, "load", cut)


def history(validation, test):
    return {"validation_accuracy": validation, "test_accuracy": test}


def test_rho_and_the_epoch_are_chosen_by_validation_and_sgds_budget_in_its_favour():
    summary = demo.summarize(
        {
            "SGD": [history([0.7, 0.4], [0.6, 0.5])],
            "SGD, 2x epochs": [history([0.6, 0.3], [0.9, 0.4])],
            "SAM, rho=0.2": [history([0.5, 0.8], [0.5, 0.7])],
            "SAM, rho=0.5": [history([0.9, 0.7], [0.5, 0.9])],
        }
    )
    assert summary["sgd"] == "SGD"
    assert summary["sgd_stopped"] == "SGD"
    assert summary["sam"] == "SAM, rho=0.2"  # 0.8 on validation, although the other is better on test data
    assert summary["test_accuracy_at_best_validation"]["SGD"] == [0.6]
    assert "0.2 (chosen" in [name for name, _ in demo._rows(summary)][-1]


@pytest.mark.parametrize(
    ("sam", "expected"),
    [
        # Paired by seed the leads are 0.3, 0.3, 0.3 and 0.1, 0.2, 0.3: t(0.975, 2) * 0.1 / √3 = 0.248.
        ([0.8, 0.9, 1.0], ["above the better of SGD's last epochs (SGD): by 30.0 ± 0.0 points."]),
        (
            [0.6, 0.8, 1.0],
            ["above the better of SGD's last epochs (SGD): by 20.0 ± 24.8 points, which 3 seeds do not settle."],
        ),
        ([0.4, 0.5, 0.6], ["not above the better of SGD's last epochs (SGD): by -10.0 ± 0.0 points."]),
    ],
)
def test_the_reading_is_honest_about_doubt_and_defeat(sam, expected):
    runs = {
        "SGD": [history([0.7], [value]) for value in (0.5, 0.6, 0.7)],
        "SAM, rho=0.2": [history([0.5], [value]) for value in sam],
    }
    lines = demo._reading(demo.summarize(runs)).splitlines()
    assert lines[0] == f"SAM is {expected[0]}"
    assert lines[1].startswith("SAM is ")
    assert "SGD stopped early" in lines[1]


def test_one_seed_settles_nothing():
    runs = {"SGD": [history([0.7], [0.5])], "SAM, rho=0.2": [history([0.5], [0.9])]}
    assert demo._reading(demo.summarize(runs)).splitlines()[1] == (
        "SAM is above SGD stopped early: by 40.0 points, which 1 seed does not settle."
    )


def test_sharpness_is_the_rise_of_the_loss_at_epsilon():
    train = digits.load()[0]
    split = digits.Split(train.x[:50], train.y[:50])
    model = demo.small_cnn(keras_sam.SAMModel, (8, 8, 1), 10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # inference mode, as the measurement has it
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, sam=keras_sam.SAM(0.3))
    frozen = demo.sharpness(model, split, 0.3)
    assert model.train_on_batch(split.x, split.y, return_dict=True)["sharpness"] == pytest.approx(frozen, rel=1e-3)


@pytest.mark.usefixtures("few_digits")
def test_the_command_writes_its_picture_and_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "small_cnn", linear_net)
    arguments = ["demo", "--seeds", "1", "--epochs", "2", "--noise", "0.5", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    # Without a terminal there is a line a run, and the table.
    assert sum(line.startswith("seed 0") for line in result.output.splitlines()) == 4
    assert "stopped early" in result.output
    assert (tmp_path / "out" / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    content = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert content["settings"] == {"seeds": [0], "noise": 0.5, "epochs": 2, "rhos": [0.2, 0.5]}
    assert {"command", "versions", "machine", "commit", "date", "seconds", "summary"} <= set(content)
    assert list(content["histories"]) == ["SGD", "SGD, 2x epochs", "SAM, rho=0.2", "SAM, rho=0.5"]
    sgd, sam = content["histories"]["SGD, 2x epochs"][0], content["histories"]["SAM, rho=0.2"][0]
    assert sgd["gradients"] == [1, 2, 3, 4]
    assert sam["gradients"] == [2, 4]
    assert all(len(values) == 4 for values in sgd.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["demo.json", "demo.png"]


@pytest.mark.usefixtures("few_digits")
def test_runs_of_a_seed_begin_alike_and_repeat_to_the_bit():
    """SAM of a vanishing radius is SGD, if it has SGD's weights, noise and order of data."""
    first, second = (demo.train(None, 1, 0.6, seed=0) for _ in range(2))
    assert first == second
    near = demo.train(1e-7, 1, 0.6, seed=0)
    assert near["train_loss"] == pytest.approx(first["train_loss"], rel=1e-4)
    assert near["gradients"] == [2]
    assert demo.train(0.5, 1, 0.6, seed=0)["train_loss"] != pytest.approx(first["train_loss"], rel=1e-4)
    assert demo.train(None, 1, 0.6, seed=1)["train_loss"] != pytest.approx(first["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "1.5"], "--noise: received 1.5, expected a share in [0, 1]"),
        (["--seeds", "0"], "--seeds: received 0, expected a number of at least 1"),
        (["--epochs", "-1"], "--epochs: received -1, expected a number of at least 1"),
        (["--output", "/dev/null/folder"], "received /dev/null/folder, expected a folder"),
    ],
)
def test_bad_options_say_what_was_expected(arguments, message):
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in re.sub(r"[│\s]+", " ", result.output)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "demo.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"new": object()})

    def fail():
        with results.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_diverged_loss_is_written_as_null_and_loses_no_result(tmp_path):
    results.write_json(tmp_path / "results.json", {"loss": (1.0, float("nan"), {"inf": float("inf")})})
    assert json.loads((tmp_path / "results.json").read_text()) == {"loss": [1.0, None, {"inf": None}]}


def test_the_command_is_recorded_as_one_types_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(results.ROOT / "benchmarks" / "memory.py"), "--steps", "4", "a b"])
    assert results.provenance()["command"] == "python benchmarks/memory.py --steps 4 'a b'"


@pytest.mark.parametrize(("missing", "named"), [("sklearn.datasets", "scikit-learn"), ("typer", "typer")])
def test_a_missing_extra_is_named_and_an_error_of_ours_is_not_taken_for_one(monkeypatch, missing, named):
    class Commands(types.ModuleType):
        def __getattr__(self, name):
            raise ModuleNotFoundError(name=missing)

    monkeypatch.setitem(sys.modules, "keras_sam.experiments.commands", Commands("commands"))
    with pytest.raises(SystemExit, match=rf"`{named}` is missing.*keras-sam\[tensorflow,experiments\]"):
        main.main()
    missing = "keras_sam.experiments.tables"
    with pytest.raises(ModuleNotFoundError):
        main.main()
