"""The loss of a model over data, as a function of its weights alone: what every measure of sharpness evaluates."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.backend import keras_private
from keras_sam.backend.passes import Scope
from keras_sam.rules.step import is_overwritten, widened
from keras_sam.sharpness import batches
from keras_sam.sharpness.error_rate import wrong_predictions


class Objective:
    """The mean loss and error rate of a compiled model over data, at weights of one's choice; changes no variable.

    The loss is what `evaluate` reports: compiled losses, regularizers and `add_loss`. The error rate is the share of
    wrong predictions, those that are masked or have no weight included; NaN unless the model has one output and a
    cross-entropy for its loss.

    Args:
        model: A compiled, built `keras.Model`.
        data: Whatever `evaluate` takes: `(x, y)` or `(x, y, sample_weight)` of arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, …; it is read once for each evaluation and has to hold the same examples each
            time: no random augmentation, and no shuffling before a remainder is dropped.
        batch_size: Int, the examples in memory at a time where `data` are arrays. Defaults to `32`.
        training: Boolean, whether BatchNormalization and Dropout do what they do while training. Defaults to
            `False`.
        verbose: `0` is silent, `1` a progress bar. Defaults to `0`.

    Raises:
        ValueError: If the model is not compiled or not built, if its loss is no mean over the examples, if the data can
            be read only once or have no labels, or if an argument is none of these.
    """

    def __init__(self, model, data, batch_size=32, training=False, verbose=0):
        _check_model(model)
        batches.check(data, batch_size)
        self.model, self.training, self.verbose = model, training, verbose
        self._data, self._batch_size = data, batch_size
        self._progress, self._has_evaluated = None, False
        self._measure = backend.compiled(self._loss_and_error)
        self._differentiate = backend.compiled(self._loss_and_gradient)
        self._multiply = backend.compiled(self._product)

    @property
    def weights(self):
        """The model's trainable weights as they are, a list of tensors."""
        return [_value(v) for v in self.model.trainable_variables]

    @property
    def state(self):
        """The values of the model's other variables, a list of tensors."""
        return [_value(v) for v in self.model.non_trainable_variables]

    @property
    def num_parameters(self):
        """The number of trainable weights, an integer."""
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def batches(self):
        """A new iterator over the data: tuples of x, y and sample weights, of NumPy arrays.

        To be read to its end: a cached `tf.data.Dataset` now and then ends for ever where its first reader stopped.

        Raises:
            ValueError: If there is no example.
        """
        count = 0
        for batch in keras_private.batches(self._data, self._batch_size):
            count += batches.num_examples(batch)
            yield batch
        if not count:
            raise ValueError(f"`data` {batches.EMPTY}")

    def mean_over_groups(self, function, m=None):
        """The mean over all examples of `function(group)`, an array of floats, for groups of `m` examples.

        Args:
            function: Function of a list of batches, or of `None`, which stands for all data.
            m: Int, or `None` for a single group.
        """
        if m is None:
            return np.asarray(function(None))
        values, sizes = [], []
        for group in batches.groups(self.batches(), m, self._batch_size):
            values.append(function(group))
            sizes.append(sum(map(batches.num_examples, group)))
        return np.average(values, axis=0, weights=sizes)

    def expect(self, num_passes=None):
        """Begin the progress bar of so many passes over the data, or of a number that is not known."""
        target = num_passes and num_passes * sum(1 for _ in self.batches()) if self.verbose else None
        self._progress, self._num_seen = keras.utils.Progbar(target, verbose=self.verbose, unit_name="batch"), 0

    def finish(self):
        """End the line of a progress bar that did not know where it ends."""
        if self.verbose and self._progress.target is None:
            self._progress.update(self._num_seen, finalize=True)

    def here(self):
        """Loss and error rate at the model's own weights.

        Raises:
            ValueError: If the loss is not finite.
        """
        loss, error = self.measure(self.weights)
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss of `{self.model.name}` over the data is {loss}, of which there is no sharpness. Expected "
                "finite weights and inputs: load weights from before the training diverged, and look for NaN in the "
                "data."
            )
        return loss, error

    def measure(self, weights, state=None, group=None):
        """Loss and error rate at `weights`, two floats.

        Args:
            weights: List of tensors, one for each of `model.trainable_variables`.
            state: Values of the other variables. Defaults to `None`, those that they have.
            group: List of batches. Defaults to `None`, all data.
        """
        loss, error = self.mean(self._measure, group, state, weights)
        return float(loss), float(error)

    def value_and_grad(self, weights, group=None):
        """The loss at `weights`, a float, and its gradient, a list of tensors with `None` for a weight without one."""
        loss, *gradient = self.mean(self._differentiate, group, None, weights)
        return float(loss), gradient

    def hessian_vector_product(self, vector):
        """H v at the model's own weights, a flat float64 array, as `vector` is: in the order of the variables.

        Raises:
            ValueError: If it is not finite.
        """
        parts = self.mean_product(self.unflatten(vector))
        product = np.concatenate([ops.convert_to_numpy(p).astype("float64").ravel() for p in parts])
        if not np.all(np.isfinite(product)):
            raise ValueError(
                f"A second derivative of the loss of `{self.model.name}` is not finite at its weights. A square root "
                "or a norm at 0 in the model or its loss has none: add a small constant to what is under the root."
            )
        return product

    def mean_product(self, vectors):
        """H v at the model's own weights, lists of tensors."""
        return self.mean(self._multiply, None, None, self.weights, vectors)

    def unflatten(self, vector):
        """Tensors of the shapes of the trainable variables from a flat array."""
        variables = self.model.trainable_variables
        ends = np.cumsum([int(np.prod(v.shape)) for v in variables])
        parts = np.split(np.asarray(vector), ends[:-1])
        return [ops.convert_to_tensor(part.reshape(v.shape), v.dtype) for part, v in zip(parts, variables)]

    def mean(self, function, group, state, *arguments):
        """The mean over the examples of a group of what a function gives for a batch, a list of tensors."""
        state, total, count = self.state if state is None else state, None, 0
        for batch in self.batches() if group is None else group:
            size, tensors = batches.num_examples(batch), batches.tensors(batch)
            if not self._has_evaluated:
                # Losses make what they need in their first call, which cannot be while a function is traced.
                with backend.guarded(self.model):
                    self.evaluate(self.weights, self.state, *tensors)
                self._has_evaluated = True
            values = [v if v is None else widened(v) * size for v in function(*arguments, state, *tensors)]
            total = values if total is None else [_sum(a, b) for a, b in zip(total, values)]
            count += size
            if self._progress is not None:
                self._num_seen += 1
                self._progress.update(self._num_seen)
        return [t if t is None else t / count for t in total]

    def evaluate(self, weights, state, x, y, sample_weight):
        """Loss and predictions of a batch of tensors."""
        batches.check_labels(self.model, y)
        weights, state = zip(self.model.trainable_variables, weights), zip(self.model.non_trainable_variables, state)
        with _random_state_kept(), Scope(weights, state):
            y_pred = self.model(x, training=self.training)
            loss = keras_private.total_loss(self.model, x, y, y_pred, sample_weight, training=self.training)
        return loss, y_pred

    def _loss_and_error(self, weights, state, x, y, sample_weight):
        loss, y_pred = self.evaluate(weights, state, x, y, sample_weight)
        is_wrong = wrong_predictions(self.model, y)
        if is_wrong is None:
            return loss, loss * float("nan")
        return loss, ops.mean(ops.cast(is_wrong(y, y_pred), "float32"))

    def _loss_and_gradient(self, weights, state, *batch):
        loss, gradient = backend.value_and_grad(lambda w: self.evaluate(w, state, *batch)[0])(weights)
        return [loss, *gradient]

    def _product(self, weights, vectors, state, *batch):
        products = backend.hessian_vector_product(lambda w: self.evaluate(w, state, *batch)[0], weights, vectors)
        return [ops.zeros_like(w) if h is None else h for w, h in zip(weights, products)]


@contextlib.contextmanager
def _random_state_kept():
    states = backend.random_state()
    try:
        yield
    finally:
        backend.set_random_state(states)


def _sum(a, b):
    """Of two batches; `None` is a weight that one of them does without, as a layer that runs eagerly may."""
    return b if a is None else a if b is None else a + b


def _value(variable):
    return ops.stop_gradient(ops.convert_to_tensor(variable))


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(f"Received a {type(model).__name__}; expected a compiled `keras.Model`.")
    if not model.built:
        raise ValueError(
            f"`{model.name}` is not built, so that it has no weights yet. Call it on a batch, or train it."
        )
    if not model.compiled:
        raise ValueError(
            f"`{model.name}` is not compiled, so that it has no loss. Call `model.compile(loss=…)` with the loss that "
            "it was trained with; a rule and an optimizer play no part."
        )
    if not model.trainable_variables:
        raise ValueError(f"`{model.name}` has no trainable weights. Unfreeze a layer (`layer.trainable = True`).")
    if any(map(is_overwritten, model.trainable_variables)):
        raise ValueError(
            f"`{model.name}` computes in float8, whose scales are among its trainable weights, though the loss has no "
            "derivative by them. Measure the model as it was before `quantize`, or one of another dtype policy that "
            "has its weights."
        )
    for loss in keras.tree.flatten(model.loss):
        if getattr(loss, "reduction", "mean") in ("sum", "none", None):
            raise ValueError(
                f"The {type(loss).__name__} of `{model.name}` has `reduction={loss.reduction!r}`, which depends on the "
                "size of a batch. Compile the model with a mean over the examples, `reduction='sum_over_batch_size'`."
            )
