"""A run that was interrupted anywhere ends with the numbers of one that was not."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_sam
from keras_sam.experiments.checkpoints import Checkpoint, RandomStateByEpoch

X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 16)


class StopError(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    """Raises where a run is to be interrupted."""

    def __init__(self, epoch, moment):
        super().__init__()
        self.epoch, self.moment = epoch, moment

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, self.moment) == (self.epoch, "end"):
            raise StopError

    def on_train_batch_end(self, batch, logs=None):
        if (self.params_epoch, self.moment, batch) == (self.epoch, "batch", 1):
            raise StopError

    def on_epoch_begin(self, epoch, logs=None):
        self.params_epoch = epoch


def compiled(rule):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(x))
    model = keras_sam.SAMModel(inputs, keras.layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"], sam=rule)
    return model


def train(folder, rule, epochs=4, *others):
    model, checkpoint = compiled(rule), Checkpoint(folder)
    callbacks = [RandomStateByEpoch(3), *others, checkpoint]
    options = {"validation_data": (X, Y), "initial_epoch": checkpoint.epoch, "shuffle": False, "verbose": 0}
    model.fit(X, Y, 4, epochs, callbacks=callbacks, **options)
    return [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)], checkpoint.history


@pytest.mark.parametrize(
    "rule", [None, keras_sam.LookSAM(0.1, k=3), keras_sam.RandomPerturbation(0.1, seed=0)], ids=repr
)
def test_interrupted_twice_equals_uninterrupted_to_the_bit(rule, tmp_path):
    weights, history = train(tmp_path / "whole", rule)
    for stop in (StopAt(1, "batch"), StopAt(3, "end")):
        with pytest.raises(StopError):
            train(tmp_path / "parts", rule, 4, stop)
    assert Checkpoint(tmp_path / "parts").epoch == 3
    resumed, resumed_history = train(tmp_path / "parts", rule)
    for ours, theirs in zip(resumed, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed_history == history
    assert [len(values) for values in history.values()] == [4] * len(history)


def test_what_was_half_written_is_not_seen(tmp_path, monkeypatch):
    save, written = keras.Model.save_weights, []

    def spy(self, path, **options):
        written.append(os.path.basename(path))
        save(self, path, **options)

    monkeypatch.setattr(keras.Model, "save_weights", spy)
    _, history = train(tmp_path, None, 2)
    # Killed between the history and the weights of the third epoch, and while writing those.
    longer = {name: [*values, 0.5] for name, values in history.items()}
    (tmp_path / "history.json").write_text(json.dumps(longer))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process in (gone.pid, os.getpid()):  # in a container the one before can have had this one's number
        (tmp_path / f".{process}-history.json").write_bytes(b"half")
        (tmp_path / re.sub(r"^\.\d+-", f".{process}-", written[-1])).write_bytes(b"half")
    (tmp_path / f".{os.getppid()}-history.json").write_text("another process is writing it")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.epoch == 2
    assert checkpoint.history == history
    (tmp_path / f".{os.getppid()}-history.json").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-2.weights.h5", "history.json"]


def test_killed_before_the_older_weights_were_removed(tmp_path):
    train(tmp_path, None, 2)
    (tmp_path / "epoch-1.weights.h5").write_bytes(b"older")
    assert Checkpoint(tmp_path).epoch == 2
    train(tmp_path, None, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-3.weights.h5", "history.json"]


def test_a_diverged_loss_can_be_taken_up(tmp_path):
    train(tmp_path, None, 1)
    (tmp_path / "history.json").write_text('{"loss": [null]}')
    assert np.isnan(Checkpoint(tmp_path).history["loss"][0])


def test_deleted_with_the_end_of_the_run(tmp_path):
    train(tmp_path, None, 1)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.delete()
    assert list(tmp_path.iterdir()) == []


def test_random_layers_depend_on_seed_and_epoch_alone():
    def masks(seed, epochs, before=0):
        model = compiled(None)
        callback = RandomStateByEpoch(seed)
        callback.set_model(model)
        for _ in range(before):
            model(X, training=True)
        result = []
        for epoch in epochs:
            callback.on_epoch_begin(epoch)
            result.append(keras.ops.convert_to_numpy(model(X, training=True)))
        return result

    first, second = masks(0, [0, 1])
    again = masks(0, [1, 0], before=2)
    np.testing.assert_array_equal(again[0], second)
    np.testing.assert_array_equal(again[1], first)
    assert np.abs(first - second).max() > 0.1
    assert np.abs(masks(1, [0])[0] - first).max() > 0.1
    # Where a number of a seed's state has 31 bits.
    many, (last,) = masks(1_050_000, [4000]), masks(1_050_000, [4001])
    assert np.abs(many[0] - last).max() > 0.1
