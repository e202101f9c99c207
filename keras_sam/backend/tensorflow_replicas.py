"""One step on several replicas of `tf.distribute`: what they tell each other beside the gradient."""

import keras
import tensorflow as tf

from keras_sam.backend import keras_private
from keras_sam.backend.micro_batches import has_rows, num_examples
from keras_sam.rules.step import is_overwritten


def num_replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def share(batch):
    """What the gradient of this replica is multiplied by, so that the average is over the replicas with examples.

    Returns:
        `None` where every replica has examples, as batches of a static shape do; else a scalar tensor: 0 without
        examples, 1 where all have some, and R / R' where R' of R replicas do.
    """
    size = num_examples(batch)
    if num_replicas() == 1 or (isinstance(size, int) and not tf.executing_eagerly()):
        return None
    present = tf.cast(tf.greater(size, 0), "float32")
    # R / R' is rounded in the dtype of what it is multiplied by.
    return tf.cast(present * num_replicas(), "float64") / tf.cast(all_reduce(present), "float64")


def all_reduce(tensors):
    """The sum over replicas."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def all_reduce_gradient(gradient, share):
    """The gradient of the mean loss over replicas: each replica's loss is divided by their number already."""
    present = [g for g in weighted(gradient, share) if g is not None]
    reduced = iter(all_reduce(present))
    return [g if g is None else next(reduced) for g in gradient]


def weighted(tensors, share):
    """The tensors times the share; 0, and never NaN, where that is 0."""
    if share is None:
        return tensors
    return [t if t is None else tf.math.multiply_no_nan(t, tf.cast(share, t.dtype)) for t in tensors]


def padded(model, batch):
    """A batch without rows gets one of zeros, since BatchNormalization and micro-batches need one.

    Layers that average over replicas do without, and would count it.
    """
    present = [a for a in keras.tree.flatten(batch) if a is not None]
    if keras_private.synchronized_variables(model) or not all(isinstance(a, tf.Tensor) for a in present):
        return batch

    def with_a_row(a):
        missing = tf.maximum(0, 1 - tf.shape(a)[0])
        return tf.pad(a, [[0, missing], *[[0, 0]] * (a.shape.rank - 1)])

    return keras.tree.map_structure(lambda a: a if a is None else with_a_row(a), batch)


def without_idle(model, result, share, size):
    """The `Result` of a replica that may have no examples: then all that it changes are the states of random seeds.

    Args:
        model: A compiled `SAMTrainer` model.
        result: `Result` of a batch that `padded` gave.
        share: What `share` gave.
        size: Integer or scalar tensor, the number of rows of that batch.
    """
    present = share > 0
    synchronized = {id(v) for v in keras_private.synchronized_variables(model)}

    def kept(variable, value):
        if id(variable) in synchronized or not keras.backend.is_float_dtype(variable.dtype):
            return value
        return tf.where(present, value, tf.cast(variable.value, value.dtype))

    def of_examples(y):
        # Not all that a model returns has rows.
        return y[: tf.where(present, tf.shape(y)[0], 0)] if y is not None and has_rows(y, size) else y

    overwritten = map(is_overwritten, model.trainable_variables)
    gradient = [g if o else w for g, w, o in zip(result.gradient, weighted(result.gradient, share), overwritten)]
    return result._replace(
        gradient=gradient,
        state=tuple(weighted(slot, share) for slot in result.state),
        loss=tf.where(present, result.loss, tf.zeros_like(result.loss)),
        sharpness=tf.where(present, result.sharpness, tf.zeros_like(result.sharpness)),
        y_pred=keras.tree.map_structure(lambda y: keras_private.masked_alike(of_examples, y), result.y_pred),
        updates=[(variable, kept(variable, value)) for variable, value in result.updates],
    )


def all_skip_together(result):
    """Where the gradient of any replica is not finite, NaN on all: the optimizer's loss scaling asks one of them."""
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in result.gradient if g is not None]
    overflows = all_reduce(tf.cast(tf.logical_not(tf.reduce_all(finite)), "float32"))

    def marked(tensor):
        return None if tensor is None else tf.where(overflows > 0, tf.cast(float("nan"), tensor.dtype), tensor)

    return result._replace(gradient=[marked(g) for g in result.gradient])
