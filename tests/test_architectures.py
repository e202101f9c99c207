"""Every architecture of the paper, reduced, trains through the code that trains it in full; some on each backend."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import BACKEND

from keras_sam.experiments import runner
from keras_sam.experiments.runner import Run

ON_EVERY_BACKEND = [
    ("table4", "noise-40", "sam"),
    ("table4", "noise-40", "mixup-8"),
    ("table1", "shake-shake/basic/cifar100", "sgd"),
]
ON_TENSORFLOW = [
    ("table1", "wrn-28-10/cutout/cifar10", "sam"),
    ("table1", "pyramidnet-shakedrop/basic/cifar10", "sam"),
    ("table2", "resnet-50/100", "sgd"),
    ("table3", "efficientnet-b7/oxford_flowers102", "sgd"),
    ("figure1", "resnet-56-no-skips/cifar10", "sam"),
    ("figure3-left", "wrn-40-10-no-bn/cifar10", "sgd"),
]


def in_few_steps(monkeypatch, batch_size=32):
    """One epoch of some steps."""
    original = runner._reduced

    def reduced(row):
        row = original(row)
        return dataclasses.replace(row, batch_size=batch_size, epochs=row.epochs and 1, steps=row.steps and 2)

    monkeypatch.setattr(runner, "_reduced", reduced)


# What graphs do to a training is seen in `test_runner`.
@pytest.mark.usefixtures("eager_functions")
@pytest.mark.parametrize(
    ("table", "row", "method"), ON_EVERY_BACKEND + (ON_TENSORFLOW if BACKEND == "tensorflow" else [])
)
def test_an_architecture_trains(table, row, method, monkeypatch, tmp_path):
    in_few_steps(monkeypatch)
    run = Run(table=table, row=row, method=method, smoke=True)
    content = runner.run(run, tmp_path)
    assert content == json.loads(run.path(tmp_path).read_text())
    assert 0 <= content["result"]["test_error"] <= 1
    assert np.isfinite(content["history"]["loss"]).all()
    assert ("sharpness" in content["history"]) == (method == "sam")
    assert ("top5_error" in content["result"]) == (table in ("table2", "table3"))
    assert set(content) >= {"settings", "command", "versions", "commit", "devices", "date", "backend", "seconds"}
    assert run.path(tmp_path).with_suffix(".keras").exists() == (table in ("figure1", "figure3-left"))
    # Nothing to go on from is left.
    assert not list(tmp_path.rglob("epoch-*")) + list(tmp_path.rglob("history.json"))
    assert list(tmp_path.rglob("events.out.tfevents.*"))
