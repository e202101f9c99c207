"""The TensorFlow backend: gradients by `tf.GradientTape`, one train step a replica."""

import keras
import tensorflow as tf
from keras import ops

from keras_sam.backend import keras_private
from keras_sam.backend.passes import MISSED_WEIGHTS, Passes, check_has_weights, forward


def value_and_grad(function, has_aux=False):
    """A function that evaluates `function` and its gradient with respect to a list of tensors.

    Args:
        function: Function from a list of tensors to a scalar, or with `has_aux` to a scalar and anything else.
        has_aux: Whether `function` returns a pair. Defaults to `False`.

    Returns:
        Function from a list of tensors to `(value, gradients)`, or `((value, aux), gradients)`. A gradient is
        dense, and `None` for a tensor that the value does not depend on.

    Example:

    >>> value, gradient = keras_sam.backend.value_and_grad(lambda w: keras.ops.sum(w[0] ** 2))([keras.ops.ones(2)])
    >>> np.array(gradient[0])
    array([2., 2.], dtype=float32)
    """

    def evaluate(weights):
        weights = [tf.convert_to_tensor(w) for w in weights]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            result = function(weights)
        gradient = tape.gradient(result[0] if has_aux else result, weights)
        # Embeddings give IndexedSlices, in which one row can occur twice: no norm is defined on them.
        return result, [g if g is None else tf.convert_to_tensor(g) for g in gradient]

    return evaluate


def check_model(model):
    """Raise a `ValueError` for a model that SAM would train wrongly on this backend."""
    if model.built:
        check_has_weights(model)
    for layer in keras_private.rematerialized(model):
        raise ValueError(
            f"The layer `{layer.name}` was made under `keras.RematScope`, which on the TensorFlow backend hides its "
            "weights from the gradient at the weights that SAM chooses. Make it outside, or train with `sam=None`."
        )


def train_step(model, sharpness, data):
    """One step of `fit` on this replica's share of the batch; the optimizer averages over replicas, once.

    Args:
        model: A compiled `SAMTrainer` model.
        sharpness: The `keras.metrics.Mean` that tracks L(w + ε̂) − L(w).
        data: Batch, as `fit` passes it to `train_step`.

    Returns:
        The logs, a dict.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    _build(model, x)
    rule, optimizer, variables = model.sam, model.optimizer, model.trainable_variables
    step = rule.step(optimizer.iterations, variables)
    second_pass = rule.needs_second_pass(step)
    passes = Passes(
        value_and_grad(lambda weights: _forward(model, weights, x, y, sample_weight), has_aux=True),
        scale=_loss_scale(optimizer),
        second_pass=True if _skipping_would_deadlock(model) else second_pass,
    )
    gradient, _ = rule.gradient(passes, [tf.convert_to_tensor(v.value) for v in variables], step)
    optimizer.apply_gradients(zip(_for_optimizer(gradient, passes, variables), variables))
    for variable, value in passes.updates:
        variable.assign(value)
    return _logs(model, sharpness, passes, second_pass, x, y, sample_weight)


def _build(model, x):
    """Create the variables of a model that has not been called yet: none can be made inside a functional pass."""
    if not keras_private.is_built(model):
        model(keras.tree.map_structure(_symbolic, x))
    check_has_weights(model)


def _symbolic(tensor):
    return None if tensor is None else keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))


def _forward(model, weights, x, y, sample_weight):
    """`forward`, sure that it used `weights` and that what it updated can leave it."""
    graph = _graph()

    def on_update(variable):
        if _graph() is not graph:
            raise ValueError(
                f"`{variable.path}` is updated inside a loop or a branch of the forward pass, as by dropout in the "
                "cell of a `keras.layers.RNN`, and cannot be carried out of it. Draw the mask outside of the loop as "
                "`keras.layers.LSTM(recurrent_dropout=…)` does, use `unroll=True`, or train with `sam=None`."
            )

    with tf.GradientTape() as tape:
        result = forward(model, weights, x, y, sample_weight, on_update)
    read = {id(v) for v in tape.watched_variables()}
    missed = [v.path for v in model.trainable_variables if read & {id(copy) for copy in _copies(v)}]
    if missed:
        raise ValueError(MISSED_WEIGHTS.format(names=", ".join(f"`{path}`" for path in missed)))
    return result


def _graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _copies(variable):
    """The `tf.Variable`s of all replicas behind a Keras variable."""
    return tf.distribute.get_strategy().experimental_local_results(variable.value)


def _loss_scale(optimizer):
    """What the optimizer multiplies a loss by, or `None` if it leaves losses alone."""
    one = 1.0
    scale = optimizer.scale_loss(one)
    return None if scale is one else tf.convert_to_tensor(scale, "float32")


def _skipping_would_deadlock(model):
    """A replica cannot all-reduce inside a conditional: SynchronizedBatchNormalization has to run in both passes."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1 and keras_private.has_collectives(model)


def _for_optimizer(gradient, passes, variables):
    """The rule's gradient, in the units that the optimizer expects."""
    # What the optimizer assigns instead of descending along belongs to the state, and the state is the first pass's.
    gradient = [
        first if getattr(v, "overwrite_with_gradient", False) else g
        for g, first, v in zip(gradient, passes.gradient, variables)
    ]
    if passes.scale is None:
        return gradient
    # An infinite gradient of the first pass can leave a finite second one (p = inf), and still has to skip the step.
    finite = [ops.all(ops.isfinite(g)) for g in passes.gradient if g is not None]
    scale = ops.where(ops.all(ops.stack(finite)), passes.scale, float("nan"))
    return [g if g is None else g * ops.cast(scale, g.dtype) for g in gradient]


def _logs(model, sharpness, passes, second_pass, x, y, sample_weight):
    """The clean pass's loss and metrics, and the sharpness where this step computed it."""
    num_examples = tf.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0]
    unscale = keras_private.unscale_loss_for_distribution
    keras_private.track_loss(model, unscale(passes.losses[0]), num_examples)
    weight = ops.cast(num_examples, "float32") * ops.cast(second_pass, "float32")
    sharpness.update_state(unscale(passes.sharpness()), sample_weight=weight)
    logs = model.compute_metrics(x, y, passes.y_pred, sample_weight=sample_weight)
    # A `compute_metrics` of the user's own need not know of it.
    return {**logs, "sharpness": sharpness.result()}
