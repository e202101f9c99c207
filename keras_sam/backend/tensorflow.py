"""The TensorFlow backend: gradients by `tf.GradientTape`, one train step a replica."""

import contextlib
import functools
import traceback

import keras
import tensorflow as tf

from keras_sam.backend import keras_private, rule_state
from keras_sam.backend import tensorflow_replicas as replicas
from keras_sam.backend.micro_batches import num_examples
from keras_sam.backend.passes import (
    MISSED_WEIGHTS,
    RECOMPUTED,
    Batch,
    check_not_rematerialized,
    check_weights,
    loss_scale,
)
from keras_sam.backend.step import sam_gradient, step_of, track
from keras_sam.backend.tensorflow_trainer import Trainer, check_hosts_agree, check_scope, is_chief
from keras_sam.rules.step import SHARES

__all__ = ["Trainer", "check_hosts_agree", "is_chief"]


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
        return result, [g if g is None else _dense(g, w) for g, w in zip(gradient, weights)]

    return evaluate


def _dense(gradient, weight):
    # Embeddings give IndexedSlices, in which one row can occur twice: no norm is defined on them.
    gradient = tf.convert_to_tensor(gradient)
    # A graph does not always know the shape of a gradient, such as that of a `Dense` over series of one feature.
    gradient.set_shape(weight.shape)
    return gradient


def hessian_vector_product(function, weights, vector):
    """∇²f(w) v, a list of tensors: the gradient of ⟨∇f(w), v⟩, with `None` for a weight without second derivatives."""

    def slope(weights):
        _, gradient = value_and_grad(function)(weights)
        pairs = [(g, v) for g, v in zip(gradient, vector) if g is not None]
        # One sum for weights of several dtypes, in the one that holds them all.
        dtype = tf.float64 if any(g.dtype == tf.float64 for g, _ in pairs) else tf.float32
        products = [tf.reduce_sum(tf.cast(g, dtype) * tf.cast(v, dtype)) for g, v in pairs]
        return tf.add_n(products) if products else tf.zeros(())

    return value_and_grad(slope)(weights)[1]


def random_state():
    """The states of random numbers that are no layer's, arrays: here all of Keras's are."""
    return []


def set_random_state(states):
    """Put back what `random_state` returned."""


def compiled(function):
    """`function` of structures of tensors, traced once for each of their shapes; faster where it is called often."""
    # TensorFlow counts traces by a function's code and warns of many; a partial is counted by itself.
    return tf.function(functools.partial(function))


def is_eager():
    """Whether what runs now runs each time, and is no graph that is traced once."""
    return tf.executing_eagerly()


def loop(count, body, carry):
    """`carry = body(i, carry)` for i in 0 … count − 1, one after the other."""
    # Without an order TensorFlow begins later iterations early, and keeps the activations of all of them.
    with tf.control_dependencies(tf.nest.flatten(carry)):
        count = tf.identity(count)
    return tf.while_loop(
        lambda i, _: i < count, lambda i, carry: (i + 1, body(i, carry)), (0, carry), parallel_iterations=1
    )[1]


def cond(condition, if_true, if_false):
    """`if_true()` where the scalar `condition` is true, else `if_false()`."""
    return tf.cond(condition, if_true, if_false)


def _is_in_stop_gradient():
    """`tf.stop_gradient` records nothing while it reads what it is given, and is right not to."""
    return any(frame.f_code.co_name == "stop_gradient" for frame, _ in traceback.walk_stack(None))


def check_read(variable):
    """Raise a `ValueError` for a weight that is read where no tape records it, as `tf.recompute_grad` does."""
    # In a graph of its own, so that the step has no operation more.
    with contextlib.nullcontext() if tf.executing_eagerly() else tf.Graph().as_default():
        with tf.GradientTape() as tape:
            one = tf.ones(())
            tape.watch(one)
            same = tf.identity(one)
        if tape.gradient(same, one) is None and not _is_in_stop_gradient():
            raise ValueError(RECOMPUTED.format(path=variable.path))


@contextlib.contextmanager
def guarded(model):
    """A context manager around an evaluation at other weights, which raises where a layer would not use them."""
    check_not_rematerialized(model)
    with _guard(model):
        yield


def check_model(model):
    """Raise a `ValueError` for a model that SAM would train wrongly on this backend."""
    if keras_private.is_built(model):
        check_weights(model)
        check_scope(model)
    check_not_rematerialized(model)
    several, synchronized = replicas.num_replicas() > 1, keras_private.synchronized_variables(model)
    strategy = f"{type(tf.distribute.get_strategy()).__name__} with {replicas.num_replicas()} replicas"
    if several and model.sam.m == "global" and model.sam.compares_gradients:
        raise ValueError(
            f"Received `sam={model.sam!r}` under {strategy}. It compares the two gradients of a batch, of which the "
            "first would be of all replicas and the second of one. Expected an integer, or `None` for the batch of a "
            "replica."
        )
    if several and isinstance(model.sam.m, int) and synchronized:
        raise ValueError(
            f"Received `sam={model.sam!r}` under {strategy}, for a model with `BatchNormalization(synchronized=True)`: "
            "its layers wait for all replicas, which run their micro-batches by themselves. Expected `m=None` or "
            "`m='global'`, or `synchronized=False`."
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
    batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
    _build(model, batch.x)
    rule, optimizer, variables = model.sam, model.optimizer, model.trainable_variables
    several, share = replicas.num_replicas() > 1, replicas.share(batch)
    # A replica's gradient is that of its part of the mean loss; what a rule keeps has the units of the whole gradient.
    units = 1 if rule.m == "global" else replicas.num_replicas()
    replica = 0 if rule.m == "global" else tf.distribute.get_replica_context().replica_id_in_sync_group
    step = step_of(model)._replace(share=replica * SHARES)
    step = step._replace(state=keras.tree.map_structure(lambda value: value / units, step.state))
    scale, fed = loss_scale(optimizer), batch if share is None else replicas.padded(model, batch)
    result = sam_gradient(
        model,
        [tf.convert_to_tensor(v.value) for v in variables],
        fed,
        step,
        scale=scale,
        guards=lambda: functools.partial(_guard, model),
        # A replica cannot all-reduce inside a conditional, as SynchronizedBatchNormalization would.
        may_skip=not (several and keras_private.synchronized_variables(model)),
        all_reduce=functools.partial(replicas.all_reduce_gradient, share=share)
        if rule.m == "global" and several
        else None,
    )
    if share is not None:
        result = replicas.without_idle(model, result, share, num_examples(fed))
    if several and scale is not None:
        result = replicas.all_skip_together(result)
    # Before the weights move: a layer may have assigned a weight's value to another variable.
    for variable, value in result.updates:
        variable.assign(value)
    optimizer.apply_gradients(zip(result.gradient, variables))
    kept = keras.tree.map_structure(lambda value: value * units, result.state)
    for variable, value in rule_state.updates(model, kept, result.gradient, scale):
        variable.assign(value)
    return track(model, sharpness, result, batch, step, scale)


def _build(model, x):
    """Create the variables of a model that has not been called yet: none can be made inside a functional pass."""
    if not model.optimizer.built and not keras_private.is_built(model):
        # Eagerly by the batch itself, in whose values `call` may look.
        model(x) if tf.executing_eagerly() else keras_private.build_from_shapes(model, x)
        rule_state.create(model)
    check_weights(model)


@contextlib.contextmanager
def _guard(model):
    """Sees to it that a forward pass uses the weights that it is given, and that its updates can leave it."""
    graph = _graph()

    def on_update(variable):
        if _graph() is not graph:
            raise ValueError(
                f"`{variable.path}` is updated inside a loop or a branch of the forward pass, as by dropout in the "
                "cell of a `keras.layers.RNN`, and cannot be carried out of it. Draw the mask outside of the loop as "
                "`keras.layers.LSTM(recurrent_dropout=…)` does, use `unroll=True`, or train with `sam=None`."
            )

    with tf.GradientTape() as tape:
        yield on_update
    read = {id(v) for v in tape.watched_variables()}
    missed = [v.path for v in model.trainable_variables if read & {id(copy) for copy in _copies(v)}]
    if missed:
        raise ValueError(MISSED_WEIGHTS.format(names=", ".join(f"`{path}`" for path in missed)))


def _graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _copies(variable):
    """The `tf.Variable`s of all replicas behind a Keras variable."""
    return tf.distribute.get_strategy().experimental_local_results(variable.value)
