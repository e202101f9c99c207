"""How a run is spread over devices: names for the command line, for what Keras's backends offer."""

import contextlib
import os

import keras

# Each with the backend that it belongs to.
STRATEGIES = {"none": None, "mirrored": "tensorflow", "multi-worker": "tensorflow", "tpu": "tensorflow"}
STRATEGIES |= {"data-parallel": "jax"}


def scope(name):
    """A context in which to make and train a model.

    Args:
        name: Key of `STRATEGIES`: `"none"`, one device; `"mirrored"`, all GPUs of this machine; `"multi-worker"`, those
            of the machines in `TF_CONFIG`; `"tpu"`, through TensorFlow the TPU of this machine, or the one that
            `TPU_NAME` names; `"data-parallel"`, all that JAX sees.

    Raises:
        ValueError: If the backend that Keras runs on does not have it.
    """
    wanted = STRATEGIES[name]
    if wanted not in (None, keras.backend.backend()):
        raise ValueError(
            f"Received `strategy={name!r}` on Keras's backend {keras.backend.backend()!r}; it belongs to {wanted!r}. "
            f"Set the environment variable KERAS_BACKEND={wanted}."
        )
    if name == "none":
        return contextlib.nullcontext()
    if name == "data-parallel":
        return keras.distribution.DataParallel().scope()
    import tensorflow as tf

    if name == "tpu":
        # "local" is one of this machine, as in Colab.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME", "local"))
        return tf.distribute.TPUStrategy(resolver).scope()
    return {"mirrored": tf.distribute.MirroredStrategy, "multi-worker": tf.distribute.MultiWorkerMirroredStrategy}[
        name
    ]().scope()


def check_shares(num_examples, batch_size):
    """Raise a `ValueError` if devices cannot share the last batch that an error is measured on, before training.

    Under Keras's `DataParallel` every device takes as many rows; tf.distribute's strategies share any batch.
    """
    distribution = keras.distribution.distribution()
    devices = 1 if distribution is None else distribution.num_model_replicas
    if num_examples % batch_size % devices:
        raise ValueError(
            f"The error is measured on {num_examples} images in batches of {batch_size}, of which the last has "
            f"{num_examples % batch_size}: {devices} devices cannot share it evenly. Let JAX see a number of devices "
            "that divides it, or use TensorFlow with another `--strategy`."
        )
