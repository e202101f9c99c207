"""`fit` on several replicas or hosts of `tf.distribute`, at some of which Keras's own trainer fails."""

import warnings

import keras
import tensorflow as tf

from keras_sam.backend import hosts, keras_private

# What TensorFlow raises on the other hosts, some 20 seconds after one of them is gone.
LOST = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError, tf.errors.CancelledError)
LOST_HOST = (
    "A host was lost, or froze: its own log may say why. End what is left of it and start all hosts again; with "
    "`keras_sam.callbacks.BackupAndRestore` they go on from the last backup."
)

UNSEEDED = (
    "No seed was set, so that hosts which shuffle the same arrays share them out differently: some examples would come "
    "twice and others never. Call `keras.utils.set_random_seed(…)` with the same seed on all hosts, before all else."
)


class Trainer(keras_private.Trainer):
    """Mixin of `SAMTrainer`: the parts of `fit` and `evaluate` that Keras gets wrong on several replicas or hosts.

    `steps_per_execution` above 1 fails in Keras with several replicas, and everything with several hosts.
    """

    def make_train_function(self, force=False):
        if not _is_replicated(self):
            return super().make_train_function(force)
        if self.train_function is None or force:
            check_scope(self)
            if _has_hosts(self.distribute_strategy) and keras_private.random_seed() is None:
                warnings.warn(UNSEEDED, stacklevel=3)
            check_hosts_agree(self, _facts(self))
            self.train_function = _over_replicas(self, self.train_step)

    def make_test_function(self, force=False):
        if not _is_replicated(self):
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = _over_replicas(self, self.test_step)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras averages the first batch over replicas to learn its shape, which fails where shapes or hosts differ."""
        if iterator is not None and _is_replicated(self):
            _, _, batches = next(iter(iterator))
            batch = next(batches)
            if self.train_function is None:
                _warn_of_idle_replicas(self.distribute_strategy, batch)
            data_batch = keras.tree.map_structure(lambda v: _local(self.distribute_strategy, v)[0], batch)
            data_batch, iterator = _without_optionals(data_batch), None
        return super()._maybe_symbolic_build(iterator, data_batch)


def check_scope(model):
    """Raise a `ValueError` for a model that was not made under the strategy that it is trained with."""
    strategy = model.distribute_strategy
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    for kind, variables in [("model", model.variables), ("optimizer", optimizer)]:
        foreign = [v.path for v in variables if not strategy.extended.variable_created_in_scope(v.value)]
        if foreign:
            raise ValueError(
                f"`{foreign[0]}` and {len(foreign) - 1} other variables of the {kind} of `{model.name}` were not made "
                f"under the {type(strategy).__name__} that it is trained with, so that replicas would not share them. "
                "Make and compile the model inside of `with strategy.scope():`, `SAMModel.from_model` included."
            )


def check_hosts_agree(model, facts):
    """Raise a `ValueError` where hosts differ in what has to be the same on all of them.

    Args:
        model: A model that is trained on several replicas.
        facts: Dict from what is compared to its value, of which the `repr` counts, or a list of arrays.
    """
    strategy = model.distribute_strategy
    if not _has_hosts(strategy):
        return
    digests = [int.from_bytes(hosts.digest(value), "little", signed=True) for value in facts.values()]
    digests = tf.constant([digests], "int64")
    gathered = strategy.gather(strategy.run(lambda: tf.identity(digests)), axis=0).numpy()
    for name, (first, *others) in zip(facts, gathered.T):
        if any(other != first for other in others):
            task = strategy.cluster_resolver.task_id
            raise ValueError(
                f"The {len(gathered)} replicas of {type(strategy).__name__} disagree on {name}; on the host of task "
                f"{task} it is {hosts.shown(facts[name])}. Run the same program on every host, with the same "
                "arguments, files and `keras.utils.set_random_seed(…)`."
            )


def is_chief(model):
    """Whether this process is the one that writes checkpoints; the others have to read their variables all the same."""
    strategy = model.distribute_strategy
    return not _has_hosts(strategy) or strategy.extended.should_checkpoint


def _is_replicated(model):
    """TPUStrategy is Keras's to run: its loop over steps stays on the device."""
    strategy = model.distribute_strategy
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return isinstance(strategy, kinds) and strategy.num_replicas_in_sync > 1


def _has_hosts(strategy):
    is_multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return is_multi_worker and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def _over_replicas(model, step):
    """The function that `fit` calls: `steps_per_execution` steps, one after the other."""
    strategy = model.distribute_strategy

    def one_step(data):
        logs = strategy.run(lambda data: step(_without_optionals(data)), args=(data,))
        # Without an axis: Keras reduces along the first, which scalars of several hosts do not have.
        return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), logs)

    # Two functions: one alone, asked for a batch when none is left, would still count a step and draw random numbers.
    def next_batch(iterator):
        return iterator.get_next_as_optional()

    def step_on(batch):
        return one_step(batch.get_value())

    if not model.run_eagerly:
        one_step = tf.function(one_step, reduce_retracing=True, jit_compile=model.jit_compile, autograph=False)
        next_batch = tf.function(next_batch, reduce_retracing=True, autograph=False)
        step_on = tf.function(step_on, reduce_retracing=True, autograph=False)

    def function(data):
        if not isinstance(data, tf.distribute.DistributedIterator):
            return one_step(next(data))
        logs = None
        for _ in range(model.steps_per_execution):
            try:
                batch = next_batch(data)
                if not batch.has_value():
                    break
                logs = step_on(batch)
            except LOST as error:
                if _has_hosts(strategy):
                    error.add_note(LOST_HOST)
                raise
        if logs is None:
            raise StopIteration
        return logs

    return function


def _without_optionals(data):
    """TensorFlow's iterators cannot give `None`, in place of which Keras lets them give optionals."""
    return keras.tree.map_structure(lambda v: None if isinstance(v, tf.experimental.Optional) else v, data)


def _local(strategy, value):
    return strategy.experimental_local_results(value)


def _warn_of_idle_replicas(strategy, batch):
    leaves = [v for v in keras.tree.flatten(batch) if isinstance(v, tf.distribute.DistributedValues)]
    rows = [int(tf.shape(v)[0]) for v in _local(strategy, leaves[0])] if leaves else []
    if 0 in rows:
        warnings.warn(
            f"The first batch leaves {rows.count(0)} of {len(rows)} replicas without examples. They wait for the "
            "others and are left out of the average of gradients. Pass a `batch_size` of "
            f"{strategy.num_replicas_in_sync}, the number of replicas, or more.",
            stacklevel=4,
        )


def _facts(model):
    return {
        "the rule (`sam=…`)": keras.saving.serialize_keras_object(model.sam),
        "the seed": keras_private.random_seed(),
        "the initial weights": [v.numpy() for v in model.trainable_variables],
    }
