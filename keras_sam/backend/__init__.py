"""The only part of the library that knows which backend Keras runs on. Every backend's file has the same names."""

import keras

SUPPORTED = ("tensorflow", "jax", "torch")

if keras.backend.backend() == "tensorflow":
    from keras_sam.backend.tensorflow import (
        check_model,
        compiled,
        cond,
        hessian_vector_product,
        loop,
        random_state_kept,
        train_step,
        value_and_grad,
    )
elif keras.backend.backend() == "jax":
    from keras_sam.backend.jax import (
        check_model,
        compiled,
        cond,
        hessian_vector_product,
        loop,
        random_state_kept,
        train_step,
        value_and_grad,
    )
elif keras.backend.backend() == "torch":
    from keras_sam.backend.torch import (
        check_model,
        compiled,
        cond,
        hessian_vector_product,
        loop,
        random_state_kept,
        train_step,
        value_and_grad,
    )
else:

    def _unsupported(*args, **kwargs):
        raise ValueError(
            f"Keras runs on the backend {keras.backend.backend()!r}, for which keras_sam has no train step; expected "
            f"one of {SUPPORTED}. Set the environment variable KERAS_BACKEND before Keras is imported, or train with "
            "`sam=None`."
        )

    check_model = compiled = cond = hessian_vector_product = loop = _unsupported
    random_state_kept = train_step = value_and_grad = _unsupported

__all__ = [
    "check_model",
    "compiled",
    "cond",
    "hessian_vector_product",
    "loop",
    "random_state_kept",
    "train_step",
    "value_and_grad",
]
