"""Interrupted runs go on as if nothing had happened, wherever and however they were stopped."""

import math
import re
from pathlib import Path

import keras
import numpy as np

from keras_sam.backend import keras_private
from keras_sam.experiments import results


class Checkpoint(keras.callbacks.Callback):
    """Keeps the model, its optimizer and the history of the last epoch on disk, each file whole or not at all.

    The epoch is part of the file's name, so that no second file could disagree with it. Give `fit` the epoch that this
    one goes on from, and this callback, last: `fit(..., initial_epoch=checkpoint.epoch, callbacks=[checkpoint])`.

    Args:
        folder: Folder of its own, made if it is not there.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        results.remove_unfinished(self.folder)
        self.epoch = max(self._saved(), default=0)
        # Written before the weights, it can be an epoch ahead of them.
        path = self.folder / "history.json"
        history = results.read_json(path) if path.exists() else {}
        numbers = {name: [math.nan if v is None else v for v in values] for name, values in history.items()}
        self.history = {name: values[: self.epoch] for name, values in numbers.items()}

    def on_train_begin(self, logs=None):
        if self.epoch:
            # A rule has its variables by now, plain Keras not always: it would drop what it cannot place.
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(self._saved()[self.epoch])

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        results.write_json(self.folder / "history.json", self.history)
        self.model.save_weights(self.folder / f"epoch-{epoch + 1}.weights.h5")
        for saved, path in self._saved().items():
            if saved != epoch + 1:
                path.unlink(missing_ok=True)

    def delete(self):
        """Remove what is there to go on from, once the run has ended."""
        for path in [*self._saved().values(), self.folder / "history.json"]:
            path.unlink(missing_ok=True)

    def _saved(self):
        paths = self.folder.glob("epoch-*.weights.h5")
        return {int(re.fullmatch(r"epoch-(\d+)\.weights\.h5", path.name).group(1)): path for path in paths}


class RandomStateByEpoch(keras.callbacks.Callback):
    """Makes dropout and the like a function of the seed and the epoch, since Keras saves no state of a seed.

    Args:
        seed: Int, the seed of the run.
    """

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        # What has no generator of its own, such as torch's dropout.
        keras.utils.set_random_seed((self.seed * 100_003 + epoch) % 2**32)
        for i, variable in enumerate(self.model.non_trainable_variables):
            if keras_private.is_seed(variable):
                # 31 bits, which the state has on every backend.
                hashed = np.random.SeedSequence([self.seed, i, epoch]).generate_state(1)[0] >> 1
                variable.assign([int(hashed), 0])
