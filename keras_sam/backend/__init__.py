"""The only part of the library that knows which backend Keras runs on. Every backend's file has the same names."""

import types

import keras

SUPPORTED = ("tensorflow", "jax", "torch")
__all__ = [
    "Trainer",
    "check_hosts_agree",
    "check_model",
    "check_read",
    "compiled",
    "cond",
    "guarded",
    "hessian_vector_product",
    "is_chief",
    "is_eager",
    "loop",
    "random_state",
    "set_random_state",
    "train_step",
    "value_and_grad",
]

if keras.backend.backend() == "tensorflow":
    from keras_sam.backend import tensorflow as _chosen
elif keras.backend.backend() == "jax":
    from keras_sam.backend import jax as _chosen
elif keras.backend.backend() == "torch":
    from keras_sam.backend import torch as _chosen
else:

    def _unsupported(*args, **kwargs):
        raise ValueError(
            f"Keras runs on the backend {keras.backend.backend()!r}, for which keras_sam has no train step; expected "
            f"one of {SUPPORTED}. Set the environment variable KERAS_BACKEND before Keras is imported, or train with "
            "`sam=None`."
        )

    _chosen = types.SimpleNamespace(**{**dict.fromkeys(__all__, _unsupported), "Trainer": object})

Trainer = _chosen.Trainer
check_hosts_agree = _chosen.check_hosts_agree
check_model = _chosen.check_model
check_read = _chosen.check_read
compiled = _chosen.compiled
cond = _chosen.cond
guarded = _chosen.guarded
hessian_vector_product = _chosen.hessian_vector_product
is_chief = _chosen.is_chief
is_eager = _chosen.is_eager
loop = _chosen.loop
random_state = _chosen.random_state
set_random_state = _chosen.set_random_state
train_step = _chosen.train_step
value_and_grad = _chosen.value_and_grad
