"""Which predictions of a classifier are wrong."""

import keras
from keras import ops


def wrong_predictions(model, labels):
    """A function of labels and predictions that tells which predictions are wrong, or `None` for other tasks."""
    losses = keras.tree.flatten(model.loss)
    loss = keras.losses.get(losses[0]) if len(losses) == 1 else None
    name = getattr(loss, "__name__", None) or type(loss).__name__
    if "crossentropy" not in name.lower().replace("_", "") or len(keras.tree.flatten(labels)) != 1:
        return None
    if "binary" in name.lower():
        threshold = 0.0 if getattr(loss, "from_logits", False) else 0.5

        def is_wrong_side(y, y_pred):
            y, y_pred = (keras.tree.flatten(a)[0] for a in (y, y_pred))
            return ops.not_equal(ops.cast(ops.reshape(y, ops.shape(y_pred)), y_pred.dtype) > 0.5, y_pred > threshold)

        return is_wrong_side
    has_indices = "sparse" in name.lower() or "generalized" in name.lower()

    def is_wrong(y, y_pred):
        y, y_pred = (keras.tree.flatten(a)[0] for a in (y, y_pred))
        axis = _class_axis(y, y_pred) if has_indices else getattr(loss, "axis", -1)
        predicted = ops.argmax(y_pred, axis)
        classes = ops.reshape(y, ops.shape(predicted)) if has_indices else ops.argmax(y, axis)
        return ops.not_equal(predicted, ops.cast(classes, predicted.dtype))

    return is_wrong


def _class_axis(y, y_pred):
    """The axis of predictions that labels, indices of classes, do not have: the last one where it may be several."""
    # From the shapes, since Keras keeps that of a sparse loss to itself.
    shape = list(y_pred.shape)
    for axis in reversed(range(1, len(shape))):
        # Labels may have an axis of 1 in place of the classes.
        if [n for n in shape[:axis] + shape[axis + 1 :] if n != 1] == [n for n in y.shape if n != 1]:
            return axis
    return -1
