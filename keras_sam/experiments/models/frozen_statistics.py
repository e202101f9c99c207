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
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"`freeze_statistics` received `{model.name}`, a {type(model).__name__} that is subclassed or not built; "
            "expected a Functional or Sequential model whose input shape is known."
        )
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    # Of a compiled model Keras would compile the clone too, without the option `sam`.
    uncompiled = keras.Model(inputs, outputs, name=model.name)
    functional = keras.models.clone_model(uncompiled, clone_function=_frozen, recursive=True)
    return keras_sam.SAMModel.from_model(functional) if isinstance(model, keras_sam.SAMModel) else functional


def _frozen(layer):
    if not isinstance(layer, keras.layers.BatchNormalization):
        return layer
    frozen = FrozenBatchNormalization.from_config(layer.get_config())
    frozen.build_from_config(layer.get_build_config())
    frozen.set_weights(layer.get_weights())
    for ours, theirs in zip(frozen.trainable_variables, layer.trainable_variables):
        ours.regularizer = theirs.regularizer
    return frozen
