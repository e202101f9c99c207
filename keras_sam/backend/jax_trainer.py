"""`fit` on several devices or processes of `keras.distribution`: what cannot be trained is refused before it begins."""

import contextlib
import inspect
import json
import math
import zlib

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils


class Trainer:
    """Mixin of `SAMTrainer`: what Keras leaves to be found out in the first step, or in the last one of an epoch."""

    def fit(self, *args, **kwargs):
        if not self._is_active():
            return super().fit(*args, **kwargs)
        _check_batches(**inspect.signature(super().fit).bind(*args, **kwargs).arguments)
        try:
            return super().fit(*args, **kwargs)
        except ValueError as error:
            if type(error).__name__ != "IndivisibleError":
                raise
            raise ValueError(f"{_uneven(len(jax.local_devices()))} {error}") from error

    def make_train_function(self, *args, **kwargs):
        if self._is_active():
            check_devices(self)
            if jax.process_count() > 1:
                _check_processes(self)
        return super().make_train_function(*args, **kwargs)

    def save(self, *args, **kwargs):
        """As in `keras.Model`; of several processes the first one writes for all."""
        if is_chief(self):
            with _writing(self):
                super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As in `keras.Model`; of several processes the first one writes for all."""
        if is_chief(self):
            with _writing(self):
                super().save_weights(*args, **kwargs)


@contextlib.contextmanager
def _writing(model):
    """A context in which the first of several processes writes a file on its own."""
    # What a lost process has left undone comes to light here, where it breaks no file that is there already.
    jax.block_until_ready([v.value for v in model.variables])
    distribution = keras.distribution.distribution()
    # Keras makes variables while it saves; under a distribution the processes would wait for each other.
    keras.distribution.set_distribution(distribution if jax.process_count() == 1 else None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def is_chief(model):
    """Whether this process is the one that writes files for all."""
    return jax.process_index() == 0


def check_devices(model):
    """Raise a `ValueError` for a rule, or for weights, that the devices of Keras's distribution cannot train with."""
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.device_mesh.devices.size == 1:
        return
    name, rule = type(distribution).__name__, model.sam
    # Without a pass at w, ε comes from the optimizer, which is the same everywhere.
    if not isinstance(distribution, keras.distribution.DataParallel) and rule.m != "global" and rule.has_clean_pass:
        raise ValueError(
            f"Received `sam={rule!r}` under {name}, which spreads the weights over devices, so that no device has a "
            "gradient of its own; expected `m='global'`, one ε̂ for the whole batch, or `keras.distribution."
            "DataParallel`, under which each device has an ε̂ of its own."
        )
    mesh = set(distribution.device_mesh.backend_mesh.devices.flat)
    for variable in model.variables + model.optimizer.variables:
        if variable.value.sharding.device_set != mesh:
            raise ValueError(
                f"`{variable.path}` of `{model.name}` was made before {name} was set, and is not on its {len(mesh)} "
                "devices. Call `keras.distribution.set_distribution(…)` first, or make, compile and fit the model "
                "inside of `with distribution.scope():`."
            )


def _check_batches(x=None, batch_size=None, validation_split=0.0, steps_per_epoch=None, **_):
    """Raise a `ValueError` for arrays that `fit` would cut into batches which the devices cannot share evenly."""
    distribution, arrays = keras.distribution.distribution(), keras.tree.flatten(x)
    if distribution is None or not arrays or not hasattr(arrays[0], "shape"):
        return
    num_devices = distribution.num_model_replicas // jax.process_count() or 1
    size, batch_size = math.floor(len(arrays[0]) * (1 - validation_split)), batch_size or 32
    last = size % batch_size if steps_per_epoch is None or steps_per_epoch * batch_size > size else 0
    for rows in (min(batch_size, size), last):
        if rows % num_devices:
            raise ValueError(
                f"{_uneven(num_devices)} Received {size} examples and `batch_size={batch_size}`, which makes a batch "
                f"of {rows}."
            )


def _uneven(num_devices):
    return (
        f"A batch has to be a multiple of {num_devices}, the number of devices of this process that share it. Choose "
        "such a `batch_size`, and leave out the last examples (`dataset.batch(…, drop_remainder=True)`, `x[:n]`) or "
        "repeat the data where they do not fill it."
    )


def _check_processes(model):
    """Raise a `ValueError` on every process if they differ in the rule or in the values of the variables."""
    rule = json.dumps(keras.saving.serialize_keras_object(model.sam), sort_keys=True)
    weights = 0
    for variable in model.variables + model.optimizer.variables:
        if variable.value.is_fully_replicated:
            weights = zlib.crc32(np.asarray(variable.value.addressable_data(0)).tobytes(), weights)
    everyone = multihost_utils.process_allgather(np.array([zlib.crc32(rule.encode()), weights], "uint32"))
    differ = [np.flatnonzero(column != column[0]).tolist() for column in everyone.T]
    here = f"this is process {jax.process_index()} of {jax.process_count()}"
    if differ[0]:
        raise ValueError(
            f"The processes {differ[0]} train `{model.name}` with another rule than process 0; {here}, with "
            f"`sam={model.sam!r}`. Compile with the same rule everywhere; one that draws random numbers needs a `seed`."
        )
    if differ[1]:
        raise ValueError(
            f"The processes {differ[1]} have other initial weights of `{model.name}`, or of its optimizer, than "
            f"process 0; {here}. Call `keras.utils.set_random_seed` with the same number everywhere before the model "
            "is made, and load the same file."
        )
