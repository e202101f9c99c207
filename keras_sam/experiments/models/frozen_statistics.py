"""BatchNormalization whose statistics are frozen while its scale and shift train, for fine-tuning."""

import keras

import keras_sam


@keras.saving.register_keras_serializable("keras_sam")
class FrozenBatchNormalization(keras.layers.BatchNormalization):
    """Normalizes by its moving statistics in training too, and never updates them; gamma and beta train.

    `trainable = False` would freeze gamma and beta as well.

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), appendix C.2.
    """

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def freeze_statistics(model):
    """A model like this one, in which every BatchNormalization is a `FrozenBatchNormalization`.

    Args:
        model: A built Functional or Sequential model, models inside of it included, compiled or not.

    Returns:
        A Functional model, a `SAMModel` if `model` is one; not compiled. It shares all layers with `model` except
        for those of BatchNormalization, whose weights it copies.

    Raises:
        ValueError: If `model` is a subclassed model, whose layers cannot be exchanged, or is not built.

    Example:

    >>> model = freeze_statistics(keras.applications.EfficientNetB0())
    """
    functional = _exchanged(model, keras.layers.BatchNormalization, FrozenBatchNormalization, "freeze_statistics")
    return keras_sam.SAMModel.from_model(functional) if isinstance(model, keras_sam.SAMModel) else functional


def thaw_statistics(model):
    """The way back: a model of Keras alone, for a file that loads without keras_sam.

    Args:
        model: A built Functional or Sequential model, such as one of `freeze_statistics`, trained or not.

    Returns:
        A `keras.Model`, not compiled, that predicts the same. It shares all layers with `model` except for every
        `FrozenBatchNormalization`, in whose place is a `BatchNormalization` with copies of its weights.

    Raises:
        ValueError: If `model` is a subclassed model, or is not built.

    Example:

    >>> thaw_statistics(freeze_statistics(model)).save("model.keras")
    """
    return _exchanged(model, FrozenBatchNormalization, keras.layers.BatchNormalization, "thaw_statistics")


def _exchanged(model, old, new, caller):
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"`{caller}` received `{model.name}`, a {type(model).__name__} that is subclassed or not built; "
            "expected a Functional or Sequential model whose input shape is known."
        )

    def copied(layer):
        if not isinstance(layer, old):
            return layer
        copy = new.from_config(layer.get_config())
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
        for ours, theirs in zip(copy.trainable_variables, layer.trainable_variables):
            ours.regularizer = theirs.regularizer
        return copy

    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    # Of a compiled model Keras would compile the clone too, without the option `sam`.
    uncompiled = keras.Model(inputs, outputs, name=model.name)
    return keras.models.clone_model(uncompiled, clone_function=copied, recursive=True)
