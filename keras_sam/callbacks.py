"""Callbacks that measure sharpness while a model trains, in `fit`'s logs; and the one that backs a training up."""

import functools
import warnings

import keras
import numpy as np
from keras import ops

from keras_sam import backend
from keras_sam.checkpoint import BackupAndRestore as BackupAndRestore
from keras_sam.rules import SAM
from keras_sam.rules.checks import check_not_negative, check_positive
from keras_sam.rules.norms import dot
from keras_sam.rules.step import moved
from keras_sam.sharpness import batches
from keras_sam.sharpness.ascent import ascents
from keras_sam.sharpness.hessian import extreme
from keras_sam.sharpness.objective import Objective


class SharpnessLogger(keras.callbacks.Callback):
    """Logs the largest eigenvalue of the Hessian, and the rise of the loss within ρ, every few epochs.

    ```
    lambda_max   = λ_1 of ∇² L(w)
    m_sharpness  = mean over groups of m examples of L(w + ε̂) − L(w)
    ```

    Put it before the callbacks that are to see its numbers, such as `CSVLogger`. Epochs without a measurement have NaN
    in the logs. A measurement is some 7 Hessian-vector products over `data`, which begin at the eigenvector of
    the one before. BatchNormalization and Dropout are in inference mode, where those of `fit`'s `sharpness` train.

    Args:
        data: A fixed batch, or more, whatever `evaluate` takes; some hundreds of examples do.
        every: Int, measured after each so many epochs. Defaults to `10`.
        rho: Float, the radius. Defaults to `0.05`.
        m: Int, how many examples share one ε̂, or `None`, all. Defaults to `None`.
        tolerance: Float, the relative accuracy of the eigenvalue. Defaults to `0.05`.
        batch_size: Int, examples in memory at a time where `data` are arrays. Defaults to `256`.
        seed: Int, of the first vector. Defaults to `0`.

    Raises:
        ValueError: If `every`, `m` or `batch_size` is not positive, if `rho` or `tolerance` is negative, if the data
            are empty or can be read only once.

    Example:

    >>> logger = keras_sam.callbacks.SharpnessLogger((np.ones((8, 3)), np.ones((8, 2))), every=2)
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 2)), epochs=2, callbacks=[logger], verbose=0)
    >>> sorted(history.history)
    ['lambda_max', 'loss', 'm_sharpness', 'sharpness']

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), sections 4.1 and 4.2.
    """

    def __init__(self, data, every=10, rho=0.05, m=None, tolerance=0.05, batch_size=256, seed=0):
        super().__init__()
        check_positive(every, "every")
        if m is not None:
            check_positive(m, "m")
        check_not_negative(tolerance, "tolerance", "the relative accuracy of the eigenvalue")
        check_not_negative(rho, "rho", "the radius")
        batches.check(data, batch_size)
        self.data, self.every, self.m = data, every, m
        self.rule, self.tolerance = SAM(rho), tolerance
        self.batch_size, self.seed = batch_size, seed
        self._objective = self._vector = None

    def on_train_begin(self, logs=None):
        # The model may have been compiled again.
        self._objective = None

    def on_epoch_end(self, epoch, logs=None):
        logs.update(lambda_max=float("nan"), m_sharpness=float("nan"))
        if (epoch + 1) % self.every:
            return
        if self._objective is None:
            self._objective = Objective(self.model, self.data, self.batch_size)
            self._vector = np.random.default_rng(self.seed).normal(size=self._objective.num_parameters)
        logs["m_sharpness"] = float(self._objective.mean_over_groups(self._rise, self.m))
        # Of a model that diverges there is no Hessian; whether to stop is for other callbacks to say.
        if np.isfinite(logs["m_sharpness"]):
            try:
                values, vectors = extreme(self._objective, 1, "LA", self.tolerance, self._vector, num_vectors=6)
            except ValueError as error:
                warnings.warn(f"`lambda_max` was not found: {error}", stacklevel=2)
                return
            self._vector = vectors[:, 0]
            logs["lambda_max"] = float(values[0])

    def _rise(self, group):
        """The losses are those that come with the gradients: to compile a third function would take longer."""
        weights = self._objective.weights
        here, gradient = self._objective.value_and_grad(weights, group)
        (epsilon,) = ascents(self._objective, self.rule, weights, gradient, group)
        return self._objective.value_and_grad(moved(weights, epsilon), group)[0] - here


class InnerMaximization(keras.callbacks.Callback):
    """Logs how well a rule's ascent solves the inner maximisation, max of L(w + ε), at the end of every epoch.

    ```
    perturbed_error    = mean over (micro-)batches of the error rate at w + ε̂
    sharpness_of_error = … less the error rate at w;    sharpness_of_loss likewise
    cosine             = of the angle between the gradients applied with and without the terms of second order
    ```

    Of a rule with k ascent steps the logs also have what the first 1 … k − 1 of them find, as `sharpness_of_loss_1`
    and so on. Everything is as in the training step, BatchNormalization by the statistics of each (micro-)batch, but
    that the whole of it chooses ε̂, whatever `ascent_fraction` says.
    Put it before the callbacks that are to see its numbers, such as `CSVLogger`.

    Args:
        data: A few batches, whatever `evaluate` takes.
        rule: The rule whose ascent is measured, one that keeps no state. Defaults to `None`, the model's own.
        measures: Which of `"sharpness"` and `"cosine"`. Defaults to `("sharpness",)`.
        batch_size: Int, the size of a training batch; where the rule has an `m`, ε̂ is of so many. Defaults to `32`.

    Raises:
        ValueError: If a measure is unknown, if `batch_size` is not positive, if the data are empty or can be read only
            once; when training begins, if the rule has no ascent of its own.

    Example:

    >>> rule = keras_sam.SAM(ascent_steps=2)
    >>> callback = keras_sam.callbacks.InnerMaximization((np.ones((8, 3)), np.ones((8, 2))), rule)
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(np.ones((8, 3)), np.ones((8, 2)), callbacks=[callback], verbose=0).history
    >>> sorted(name for name in history if name.startswith("sharpness_of_loss"))
    ['sharpness_of_loss', 'sharpness_of_loss_1']

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), C.4 and C.6, figures 4, 5 and 7.
    """

    def __init__(self, data, rule=None, measures=("sharpness",), batch_size=32):
        super().__init__()
        if isinstance(measures, str):
            raise ValueError(f"Received `measures={measures!r}`; expected a tuple of names: `({measures!r},)`.")
        unknown = [name for name in measures if name not in MEASURES]
        if unknown:
            raise ValueError(f"Received the measures {unknown}; expected some of {list(MEASURES)}.")
        batches.check(data, batch_size)
        self.data, self.rule, self.measures, self.batch_size = data, rule, measures, batch_size
        self._objective = None

    def on_train_begin(self, logs=None):
        rule = self.rule or getattr(self.model, "sam", None)
        if rule is None or rule.slots or rule.uses_momentum:
            raise ValueError(
                f"`InnerMaximization` received the rule {rule!r}; expected one whose ascent depends on the weights "
                "alone, such as `rule=keras_sam.SAM(0.05)`."
            )
        if "cosine" in self.measures and (type(rule) is not SAM or rule.ascent_steps > 1 or not 1 < rule.p <= 2):
            raise ValueError(
                f"`InnerMaximization` received the measure 'cosine' for {rule!r}; expected a `keras_sam.SAM` with one "
                "ascent step and a `p` in (1, 2], which alone has a gradient of second order."
            )
        self._rule, self._objective = rule, None

    def on_epoch_end(self, epoch, logs=None):
        if self._objective is None:
            size = max(self.batch_size, self._rule.m if isinstance(self._rule.m, int) else 1)
            self._objective = Objective(self.model, self.data, size, training=True)
            self._cosine = backend.compiled(_products(self._objective, self._rule))
        m = self._rule.m if isinstance(self._rule.m, int) else self.batch_size
        iterations = int(self.model.optimizer.iterations)
        if "sharpness" in self.measures:
            logs.update(inner_maximization(self._objective, self._rule, m, iterations))
        if "cosine" in self.measures:
            rho = ops.convert_to_tensor(float(self._rule.step(iterations).rho))
            cosine = self._objective.mean_over_groups(functools.partial(self._cosine_of, rho), m)
            logs.update(cosine=float(cosine))

    def _cosine_of(self, rho, group):
        products = self._objective.mean(self._cosine, group, None, self._objective.weights, rho)
        first, second, both = map(float, products)
        return both / np.sqrt(first * second)


MEASURES = "sharpness", "cosine"
# What they add to the logs, besides those of single steps.
NAMES = "perturbed_error", "sharpness_of_error", "sharpness_of_loss", "cosine"


def inner_maximization(objective, rule, m=None, iterations=0):
    """What a rule's ascent finds, the mean over groups of m examples: a dict of `InnerMaximization`'s names to floats.

    Args:
        objective: `Objective`.
        rule: A rule that keeps no state.
        m: Int, or `None` for all.
        iterations: Integer, for a schedule of ρ.
    """
    weights, names = objective.weights, []

    def rises(group):
        loss, error = objective.measure(weights, group=group)
        found, (_, gradient) = {}, objective.value_and_grad(weights, group)
        for i, epsilon in enumerate(ascents(objective, rule, weights, gradient, group, iterations), 1):
            there, error_there = objective.measure(moved(weights, epsilon), group=group)
            suffix = "" if i == rule.ascent_steps else f"_{i}"
            found[f"perturbed_error{suffix}"] = error_there
            found[f"sharpness_of_error{suffix}"] = error_there - error
            found[f"sharpness_of_loss{suffix}"] = there - loss
        names[:] = found
        return list(found.values())

    means = objective.mean_over_groups(rises, m)
    return dict(zip(names, means.tolist()))


def _products(objective, rule):
    """A function that gives the scalar products of SAM's gradients of first and second order with each other."""

    def products(weights, rho, state, *batch):
        value_and_grad = backend.value_and_grad(lambda w: objective.evaluate(w, state, *batch)[0])
        gradients = []
        for second_order in (False, True):
            variant = SAM(1.0, rule.p, second_order=second_order, where=rule.where)
            step = variant.step(0, objective.model.trainable_variables)._replace(rho=rho)
            gradients.append([g for g in variant.gradient(value_and_grad, weights, step)[0] if g is not None])
        first, second = gradients
        return [dot(first, first), dot(second, second), dot(first, second)]

    return products
