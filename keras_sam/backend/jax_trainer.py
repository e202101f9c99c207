"""`fit` on several devices or processes of `keras.distribution`: what cannot be trained is refused before it begins."""

import contextlib
import inspect
import math

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_sam.backend import hosts, keras_private


class Trainer(keras_private.Trainer):
    """Mixin of `SAMTrainer`: what Keras leaves to be found out in the first step, or in the last one of an epoch."""

    def fit(self, *args, **kwargs):
        if self._is_active():
            _check_batches(**inspect.signature(super().fit).bind(*args, **kwargs).arguments)
        try:
            return super().fit(*args, **kwargs)
        except ValueError as error:
            if type(error).__name__ != "IndivisibleError":
                raise
            raise ValueError(f"{_uneven(_num_devices())} {error}") from error

    def make_train_function(self, *args, **kwargs):
        if self._is_active():
            check_devices(self)
        # Also where there is no rule: a process that has one asks all others, and would wait for ever. What variables
        # start with JAX compares itself.
        if jax.process_count() > 1:  # a schedule of one's own need not have a config
            check_hosts_agree(self, {"the rule (`sam=…`)": keras.saving.serialize_keras_object(self.sam)})
        return super().make_train_function(*args, **kwargs)

    def save(self, *args, **kwargs):
        """As in `keras.Model`; of several processes the first one writes for all."""
        if is_chief(self):
            self._wait()
            with _alone():
                super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As in `keras.Model`; of several processes the first one writes for all."""
        if is_chief(self):
            self._wait()
            with _alone():
                super().save_weights(*args, **kwargs)

    def load_weights(self, *args, **kwargs):
        with _alone():
            return super().load_weights(*args, **kwargs)

    def _wait(self):
        """What a lost process has left undone comes to light before it can break a file that is there already."""
        jax.block_until_ready([v.value for v in self.variables])


@contextlib.contextmanager
def _alone():
    """Keras makes variables while it saves or loads; under a distribution processes would wait for each other."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution if jax.process_count() == 1 else None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def is_chief(model):
    """Whether this process is the one that writes files for all."""
    return jax.process_index() == 0


def check_hosts_agree(model, facts):
    """Raise a `ValueError` on every process where processes differ in what has to be the same on all of them.

    Args:
        model: A model that they train together.
        facts: Dict from what is compared to its value, of which the `repr` counts, or a list of arrays.
    """
    if jax.process_count() == 1:
        return
    digests = np.array([np.frombuffer(hosts.digest(value), "uint32") for value in facts.values()])
    for (name, value), everyone in zip(facts.items(), multihost_utils.process_allgather(digests).swapaxes(0, 1)):
        others = np.flatnonzero((everyone != everyone[0]).any(axis=1)).tolist()
        if others:
            raise ValueError(
                f"The processes {others} train `{model.name}` with another value of {name} than process 0; this is "
                f"process {jax.process_index()} of {jax.process_count()}, where it is {hosts.shown(value)}. Run the "
                "same program on all of them, with the same arguments, files and `keras.utils.set_random_seed(…)`."
            )


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
    for variable in model.variables + model.metrics_variables + model.optimizer.variables:
        if variable.value.sharding.device_set != mesh:
            raise ValueError(
                f"`{variable.path}` of `{model.name}` was made before {name} was set, and is not on its {len(mesh)} "
                "devices. Call `keras.distribution.set_distribution(…)` first, or make, compile and fit the model "
                "inside of `with distribution.scope():`."
            )


def _check_batches(
    x=None,
    batch_size=None,
    validation_split=0.0,
    validation_data=None,
    steps_per_epoch=None,
    validation_batch_size=None,
    validation_steps=None,
    validation_freq=1,
    epochs=1,
    **_,
):
    """Raise a `ValueError` for arrays that `fit` would cut into batches which the devices cannot share evenly."""
    if keras.distribution.distribution() is None:
        return
    size, batch_size = _num_rows(x), batch_size or 32
    given = isinstance(validation_data, tuple | list)
    rows_for_validation = _num_rows(validation_data[0]) if given else None
    if size is not None and validation_split and validation_data is None:
        total, size = size, math.floor(size * (1 - validation_split))
        rows_for_validation = total - size
    _check_cuts(size, batch_size, steps_per_epoch, "")
    if isinstance(validation_freq, int) and epochs >= validation_freq:
        _check_cuts(rows_for_validation, validation_batch_size or batch_size, validation_steps, " for validation")


def _num_rows(data):
    arrays = keras.tree.flatten(data)
    return arrays[0].shape[0] if arrays and hasattr(arrays[0], "shape") else None


def _check_cuts(size, batch_size, steps, purpose):
    if size is None:
        return
    num_devices = _num_devices()
    last = size % batch_size if steps is None or steps * batch_size > size else 0
    for rows in (min(batch_size, size), last):
        if rows % num_devices:
            raise ValueError(
                f"{_uneven(num_devices)} Received {size} examples{purpose} and `batch_size={batch_size}`, which makes "
                f"a batch of {rows}."
            )


def _num_devices():
    """Among how many devices this process divides a batch."""
    return keras.distribution.distribution().num_model_replicas // jax.process_count() or 1


def _uneven(num_devices):
    return (
        f"A batch has to be a multiple of {num_devices}, the number of devices of this process that share it. Choose "
        "such a `batch_size`, and leave out the last examples (`dataset.batch(…, drop_remainder=True)`, `x[:n]`) or "
        "repeat the data where they do not fill it."
    )
