"""Files and trainings that a crash, a full disk or a read-only folder interrupts."""

import contextlib
import functools
import os
import resource
import shutil

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers
from nets import data
from oracle import to_numpy

import keras_sam


def made(units=8, sam=keras_sam.FriendlySAM(0.1), cls=keras_sam.SAMModel):  # noqa: B008
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = layers.Dropout(0.3)(layers.BatchNormalization()(layers.Dense(units, "tanh")(inputs)))
    model = cls(inputs, layers.Dense(2)(x))
    steps = 1 if BACKEND == "torch" else 2
    options = {} if cls is keras.Model else {"sam": sam}
    model.compile(keras.optimizers.AdamW(0.01), "mse", steps_per_execution=steps, **options)
    return model


@functools.cache
def uncut():
    return fit(made())


def fit(model, *callbacks):
    x, y = (a.astype("float32") for a in data(40))
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
    return [to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("crash", "save_freq", "left"), [((1, 5), 4, "1-4"), ((0, 9), 4, "0-8"), ((1, 5), "epoch", "1-0")]
)
def test_a_restart_gives_the_numbers_of_the_uninterrupted_run(tmp_path, crash, save_freq, left):
    """Dropout's masks, BatchNormalization, Adam and the rule's average included; 10 batches an epoch, two a call.

    On torch dropout without a seed asks torch's own generator.
    """
    folder = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        fit(made(), keras_sam.callbacks.BackupAndRestore(folder, save_freq), Crash(*crash))
    assert sorted(os.listdir(folder)) == [f"{left}.seeds.npz", f"{left}.weights.h5"]
    for got, expected in zip(
        fit(made(), keras_sam.callbacks.BackupAndRestore(folder, save_freq)), uncut(), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    assert not folder.exists()


class Decays(keras.callbacks.Callback):
    """Multiplies the learning rate that it finds, in each epoch and with each batch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.5 * to_numpy(self.model.optimizer.learning_rate)

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.9 * to_numpy(self.model.optimizer.learning_rate)

    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.8 * to_numpy(self.model.optimizer.learning_rate)


@pytest.mark.parametrize("crash", [(1, 5), (0, 7)])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_learning_rate_is_not_decayed_again_by_the_batches_that_are_left_out(tmp_path, crash, is_first):
    def callbacks():
        found = [keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 4), Decays()]
        return found if is_first else found[::-1]

    expected = fit(made(), Decays())
    with pytest.raises(KeyboardInterrupt):
        fit(made(), *callbacks(), Crash(*crash))
    for got, want in zip(fit(made(), *callbacks()), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "options", [{"sam": None}, {"sam": keras_sam.SAM(0)}, {"cls": keras.Model}], ids=["None", "rho=0", "keras.Model"]
)
def test_a_restart_without_a_second_pass_has_the_optimizers_state_too(tmp_path, options):
    folder = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        fit(made(**options), keras_sam.callbacks.BackupAndRestore(folder, 4), Crash(1, 5))
    resumed = fit(made(**options), keras_sam.callbacks.BackupAndRestore(folder, 4))
    for got, expected in zip(resumed, fit(made(**options)), strict=True):
        np.testing.assert_array_equal(got, expected)


class CrashAtOnce(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("cls", [keras.Model, keras_sam.SAMModel])
@pytest.mark.parametrize(
    "again", [CrashAtOnce(), Crash(1, 3), Crash(1, 5), Crash(1, 7)], ids=["no epoch", "left out", "last", "trained on"]
)
def test_an_interrupted_restart_leaves_the_model_as_it_was(tmp_path, again, cls):
    """The next `fit`, without the callback, has all of its epochs and all of its updates."""
    with pytest.raises(KeyboardInterrupt):
        fit(made(cls=cls), keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 6), Crash(1, 7))
    model = made(cls=cls)
    with pytest.raises(KeyboardInterrupt):
        fit(model, keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 6), again)
    before, history = int(model.optimizer.iterations), keras.callbacks.History()
    assert before == (18 if again.__dict__.get("at") == (1, 7) else 16)
    fit(model, history)
    assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations) == before + 20


def test_a_restart_without_an_epoch_or_a_batch_to_train_on_leaves_the_model_as_it_was(tmp_path):
    """`fit` ends in the epoch of the backup, or its data have become fewer than were trained on."""
    x, y = (a.astype("float32") for a in data(40))
    for epochs, rows in [(1, 40), (2, 16)]:
        with pytest.raises(KeyboardInterrupt):
            fit(made(), keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 6), Crash(1, 7))
        model, backup = made(), keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 6)
        model.fit(x[:rows], y[:rows], batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=[backup])
        assert int(model.optimizer.iterations) == 16
        history = keras.callbacks.History()
        fit(model, history)
        assert history.epoch == [0, 1]
        assert int(model.optimizer.iterations) == 36


def test_a_callback_that_is_used_again_counts_from_the_start(tmp_path):
    """With no backup left, where an interrupted epoch had one."""
    backup = keras_sam.callbacks.BackupAndRestore(tmp_path / "backup", 6)
    with pytest.raises(KeyboardInterrupt):
        fit(made(), backup, Crash(0, 7))
    shutil.rmtree(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(made(), backup, Crash(0, 7))
    assert sorted(os.listdir(tmp_path / "backup")) == ["0-6.seeds.npz", "0-6.weights.h5"]


@contextlib.contextmanager
def full_disk():
    """No file grows beyond 20 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def unwritable(folder):
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path):
    model = made()
    with pytest.raises((OSError, ValueError), match=r"missing/model\.keras"):
        model.save(tmp_path / "missing" / "model.keras")
    with pytest.raises(ValueError, match=r"Received: filepath=\S*/model\.keras"):
        model.save(tmp_path / "model.keras", zipped=False)
    with pytest.raises(ValueError, match=r"Received: filepath=\S*/model\.h5"):
        model.save_weights(tmp_path / "model.h5")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "model.weights.h5"
    model = made()
    model.save_weights(path)
    path.chmod(0o600)
    model.save_weights(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    model = made()
    for save, suffix in [(model.save, ".keras"), (model.save_weights, ".weights.h5")]:
        path = tmp_path / ("a" * (255 - len(suffix)) + suffix)
        save(path)
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_a_disk_that_cannot_be_written_leaves_the_good_files(tmp_path):
    """HDF5 does not survive a full disk itself, see test_faults.py."""
    model = made(1000)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    good = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model.trainable_variables[0].assign(np.ones((3, 1000)))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        model.save(tmp_path / "model.keras")
    for save, name in [(model.save, "model.keras"), (model.save_weights, "model.weights.h5")]:
        with unwritable(tmp_path), pytest.raises(OSError, match="Permission denied"):
            save(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == good
    assert len(good) == 2
    assert min(map(len, good.values())) > 20_000
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded.trainable_variables[0]), np.ones((3, 1000)))
