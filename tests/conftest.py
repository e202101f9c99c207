"""Four logical CPU devices for the replicas, and the same random state for every test."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import functools

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@pytest.fixture(autouse=True)
def random_state():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@functools.cache
def _mirrored(num_replicas):
    # One strategy object a size: a second one would use the collectives' keys of the first again. The larger reduces
    # on one device, so that both of TensorFlow's ways to apply gradients are run.
    devices = [f"CPU:{i}" for i in range(num_replicas)]
    ops = tf.distribute.ReductionToOneDevice() if num_replicas > 2 else None
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=ops)


@pytest.fixture
def mirrored():
    """Function from a number of replicas to a `MirroredStrategy` on logical CPU devices."""
    return _mirrored
