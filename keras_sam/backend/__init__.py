"""The only part of the library that knows which backend Keras runs on. Every backend's file has the same names."""

import keras

SUPPORTED = ("tensorflow",)

if keras.backend.backend() == "tensorflow":
    from keras_sam.backend.tensorflow import train_step, value_and_grad
else:

    def _unsupported(*args, **kwargs):
        check_supported()

    train_step = value_and_grad = _unsupported

__all__ = ["check_supported", "train_step", "value_and_grad"]


def check_supported():
    """Raise a `ValueError` if there is no train step for the backend that Keras runs on."""
    if keras.backend.backend() not in SUPPORTED:
        raise ValueError(
            f"Keras runs on the backend {keras.backend.backend()!r}, for which keras_sam has no train step; expected one "
            f"of {SUPPORTED}. Set the environment variable KERAS_BACKEND before Keras is imported, or train with `sam=None`."
        )
