"""Checkpoints that a killed process, a full disk or several hosts cannot break."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import uuid

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.backend import keras_private

SUFFIXES = (".keras", ".weights.h5", ".npz")
# The beginning of the names that random numbers of no layer have in the file of the seeds.
RANDOM = "random_"


@contextlib.contextmanager
def replacing(model, filepath, overwrite=True):
    """A name for `model` to be written to, whose file takes the place of `filepath` once it is whole.

    A process that is not the chief of several hosts writes what nobody keeps: its part is to read the variables, for
    which the others wait. Folders, remote paths and file objects are left to Keras.
    """
    is_file = (
        isinstance(filepath, (str, os.PathLike)) and str(filepath).endswith(SUFFIXES) and "://" not in str(filepath)
    )
    # What Keras refuses it refuses by the name that was given.
    if not is_file or not overwrite or not pathlib.Path(filepath).resolve().parent.is_dir():
        yield filepath
        return
    path, is_chief = pathlib.Path(filepath).resolve(), backend.is_chief(model)
    folder = path.parent if is_chief else pathlib.Path(tempfile.mkdtemp())
    # Of the name the end, which says what kind of file it is: a file system allows no more than 255 bytes.
    temporary = folder / f".{os.getpid()}-{uuid.uuid4().hex}-{path.name[-40:]}"
    try:
        yield str(temporary)
        if is_chief:
            if path.exists():
                shutil.copymode(path, temporary)
            # Some file systems say only now that they are full.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if not is_chief:
            shutil.rmtree(folder, ignore_errors=True)


class BackupAndRestore(keras.callbacks.Callback):
    """Goes on after a crash with the numbers of a training that was never interrupted.

    As `keras.callbacks.BackupAndRestore`, which it replaces, but: a restart in mid-epoch leaves out the batches that
    were trained on, where Keras trains on them again; a process that is killed while it writes, or a full disk, leaves
    the backup before, where Keras can leave half a file; of several hosts the chief alone writes, and all read.

    Every epoch has to begin with the same batches in the restarted process as in the one before: without shuffling, or
    with a seed of the epoch's own. The logs of the epoch that is resumed are of the batches that were left. What other
    callbacks remember, such as the best loss of `EarlyStopping` or `ReduceLROnPlateau`, is in no backup. Put it before
    `SwapEMAWeights`.

    Args:
        backup_dir: String, a folder of its own, that all hosts can read.
        save_freq: `"epoch"`, or an integer number of batches. Defaults to `"epoch"`.
        delete_checkpoint: Boolean, whether to delete the backup once training is finished. Defaults to `True`.

    Raises:
        ValueError: If an argument is none of these; in `fit`, if the model is not built, or if hosts find different
            backups.

    Example:

    >>> backup = keras_sam.callbacks.BackupAndRestore("backup", save_freq=100)
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 2)), shuffle=False, callbacks=[backup], verbose=0)
    """

    def __init__(self, backup_dir, save_freq="epoch", delete_checkpoint=True):
        super().__init__()
        if not backup_dir:
            raise ValueError(f"Received `backup_dir={backup_dir!r}`; expected the name of a folder.")
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise ValueError(f"Received `save_freq={save_freq!r}`; expected 'epoch' or a number of batches above 0.")
        self.folder = pathlib.Path(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._epoch = self._last_saved = 0
        self._left_out = 0, 0, None
        self._undo = None

    def on_train_begin(self, logs=None):
        if not self.model.built:
            raise ValueError(
                f"`{self.model.name}` has no weights yet that a backup could be read into. Build it before `fit`: call "
                "it on a batch or use `build(input_shape)`."
            )
        found = self._backups()
        epoch, batches = found[-1] if found else (0, 0)
        if backend.is_chief(self.model):
            # What a process that was killed had begun to write.
            for unfinished in self.folder.glob(".*-*-*"):
                unfinished.unlink()
        backend.check_hosts_agree(self.model, {"the backup to go on from (epoch, batches)": (epoch, batches)})
        if found:
            optimizer = self.model.optimizer
            # Keras would drop the variables of one that has not made them yet.
            if optimizer is not None and not optimizer.built:
                optimizer.build(self.model.trainable_variables)
            self.model.load_weights(self._path(epoch, batches))
            with np.load(self._seeds_path(epoch, batches)) as file:
                states = [file[name] for name in file.files if name.startswith("arr_")]
                numbers = [file[name] for name in file.files if name.startswith(RANDOM)]
            for variable, state in zip(_seeds(self.model), states, strict=True):
                variable.assign(state)
            backend.set_random_state(numbers)
            self._resume(epoch, batches, numbers)
        self._last_saved = batches
        self._left_out = (epoch, batches, self._learning_rate())

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        epoch, batches, learning_rate = self._left_out
        if self._epoch == epoch and done <= batches and learning_rate is not None:
            # Other callbacks, which begin the epoch and its batches again, may have decayed it a second time.
            self.model.optimizer.learning_rate = learning_rate
        if self.save_freq != "epoch" and done - self._last_saved >= self.save_freq:
            self._save(self._epoch, done)

    def on_epoch_end(self, epoch, logs=None):
        self._last_saved = 0
        self._save(epoch + 1, 0)

    def on_train_end(self, logs=None):
        # No batch may have come that was to be left out, or no epoch.
        if self._undo is not None:
            self._undo()
        if self.delete_checkpoint and backend.is_chief(self.model):
            self._delete(self._backups())
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _learning_rate(self):
        """`None` where it is a schedule of the iterations."""
        rate = getattr(self.model.optimizer, "learning_rate", None)
        return ops.convert_to_numpy(rate) if isinstance(rate, keras.Variable) else None

    def _save(self, epoch, batches):
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.model, self._seeds_path(epoch, batches)) as path:
            numbers = {f"{RANDOM}{i}": state for i, state in enumerate(backend.random_state())}
            np.savez(path, *[ops.convert_to_numpy(v) for v in _seeds(self.model)], **numbers)
        # Last, since this file alone says that there is a backup.
        with replacing(self.model, self._path(epoch, batches)) as path:
            self.model.save_weights(path)
        self._last_saved = batches
        if backend.is_chief(self.model):
            self._delete(self._backups()[:-1])

    def _delete(self, backups):
        for backup in backups:
            self._path(*backup).unlink()
            self._seeds_path(*backup).unlink()

    def _resume(self, epoch, batches, numbers):
        """This `fit` begins at that epoch, and the first calls of the train function only take that many batches."""
        model, train = self.model, self.model.train_function
        calls = -(-batches // model.steps_per_execution)

        def undo():
            vars(model).pop("make_train_function", None)
            keras_private.resume_at(model, None)
            # After another `compile` there is none, or a new one.
            if model.train_function is train_function:
                model.train_function = train

        # Whatever interrupts this `fit`, the next one calls it first.
        def make_train_function(*args, **kwargs):
            undo()
            return model.make_train_function(*args, **kwargs)

        def train_function(*args):
            nonlocal calls
            if not calls:
                undo()
                if batches:  # in the run before, what begins an epoch had drawn its numbers already
                    backend.set_random_state(numbers)
                return train(*args)
            calls -= 1
            # On TensorFlow the data is an iterator; elsewhere the batch itself, behind the state on JAX.
            for _ in range(model.steps_per_execution if hasattr(args[-1], "__next__") else 0):
                next(args[-1], None)
            return {} if len(args) == 1 else ({}, *args[:-1])

        keras_private.resume_at(model, epoch)
        model.make_train_function, model.train_function = make_train_function, train_function
        self._undo = undo

    def _path(self, epoch, batches):
        return self.folder / f"{epoch}-{batches}.weights.h5"

    def _seeds_path(self, epoch, batches):
        return self.folder / f"{epoch}-{batches}.seeds.npz"

    def _backups(self):
        """Epochs and batches in them that were finished, in order."""
        names = [re.fullmatch(r"(\d+)-(\d+)\.weights\.h5", path.name) for path in self.folder.glob("*")]
        return sorted((int(name[1]), int(name[2])) for name in names if name)


def _seeds(model):
    """The states of random numbers and counters of layers, which Keras leaves out of its files."""
    return [v for v in model.non_trainable_variables if not keras.backend.is_float_dtype(v.dtype)]
