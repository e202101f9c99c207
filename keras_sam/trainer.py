"""SAMTrainer: the compile option `sam`, for any Keras model class."""

import contextlib
import inspect
import types
import warnings

import keras

from keras_sam import backend, checkpoint, rules
from keras_sam.backend import keras_private, rule_state
from keras_sam.backend.micro_batches import check_averaged


class SAMTrainer(backend.Trainer):
    """Mixin that gives a Keras model class the compile option `sam`.

    ```
    loss, gradient = value_and_grad(w)            # at w
    gradient = value_and_grad(w + epsilon)        # where the rule looks
    w = optimizer.apply(gradient)                 # at w again
    ```

    Put it before the model class, whose `compute_loss`, `compute_metrics`, `call` and `compile` go on working.
    `fit` then logs `sharpness` beside the loss: the mean of L(w + ε̂) − L(w) over the steps that computed it.

    Raises:
        ValueError: In `compile`, if `sam` is no rule, if there is no optimizer, nothing to train, no train step for
            Keras's backend, or if the class has a `train_step` of its own that does not call `super().train_step`.

    Example:

    >>> class SAMClassifier(keras_sam.SAMTrainer, MyClassifier):
    ...     pass
    >>> SAMClassifier().compile("adamw", "mse", sam=keras_sam.SAM(rho=0.05))

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), Algorithm 1.
    """

    sam = None
    # A namespace, since Keras saves every metric that is an attribute, and plain models have none to load it into.
    _sharpness = types.SimpleNamespace(metric=None, hidden=False, refusal=None)

    def compile(self, *args, sam="sam", **kwargs):
        """Configures the model for training, as `keras.Model.compile` does, with one option more.

        Args:
            *args: As in `keras.Model.compile`.
            sam: A rule such as `keras_sam.SAM(rho=0.05)`, its name, its config, or `None` for plain Keras: the same
                numbers and logs as `keras.Model`. Defaults to `"sam"`.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If `sam` is none of these, or if the model cannot be trained with it.

        Example:

        >>> model.compile("sgd", "mse", sam=keras_sam.SAM(rho=0.1))
        """
        rule = rules.get(sam)
        # torch keeps layers apart from other attributes.
        own = {**vars(self), **vars(self).get("_modules", {})}
        if "_sharpness" not in own and ("sam" in own or type(self).sam is not None):
            raise ValueError(
                f"{type(self).__name__} has an attribute `sam` of its own, where `compile` keeps the rule. Give yours "
                "another name."
            )
        is_logged = rule is not None and rule.perturbs and rule.has_clean_pass
        if is_logged:
            _check_names(super().metrics, args, kwargs)
        super().compile(*args, **kwargs)
        if self.optimizer is not None:
            rule_state.forget(self.optimizer)
        metric = keras.metrics.Mean(name="sharpness") if is_logged else None
        self._sharpness = types.SimpleNamespace(metric=metric, hidden=False, refusal=None)
        self.sam = rule
        if self._is_active():
            try:
                self._check_trainable()
            except ValueError as error:
                self._sharpness.refusal = str(error)
                raise

    def make_train_function(self, *args, **kwargs):
        if self._sharpness.refusal is not None:
            raise ValueError(f"`compile` was refused, call it again: {self._sharpness.refusal}")
        # A `build` may leave layers to the first call, and the optimizer has to know all of their variables.
        if self.built and self._is_active() and (self.optimizer.built or keras_private.is_built(self)):
            rule_state.create(self)
        return super().make_train_function(*args, **kwargs)

    def train_step(self, *args):
        if not self._is_active():
            return super().train_step(*args)
        return backend.train_step(self, self._sharpness.metric, *args)

    def test_step(self, *args):
        with self._without_sharpness():
            return super().test_step(*args)

    def load_weights(self, *args, **kwargs):
        # Keras drops what the file has of the optimizer, all of it, unless each of its variables exists already.
        optimizer = getattr(self, "optimizer", None)
        if self.built and optimizer is not None and optimizer.built:
            rule_state.create(self)
        return super().load_weights(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self._without_sharpness():
            return super().evaluate(*args, **kwargs)

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"Received `filepath={filepath!r}`. Keras's old format HDF5 does not keep the rule of a model: save to "
                "a file that ends in `.keras`, or the weights alone with `save_weights('model.weights.h5')`."
            )
        # Keras refuses a file of that name with `zipped=False`.
        with checkpoint.replacing(self, filepath, overwrite and zipped is not False) as path:
            return super().save(path, overwrite=overwrite, zipped=zipped, **kwargs)

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        with checkpoint.replacing(self, filepath, overwrite and max_shard_size is None) as path:
            return super().save_weights(path, overwrite=overwrite, max_shard_size=max_shard_size)

    # Kept out of `metrics`: a class of the user's may update each of those with labels and predictions, as in Keras's
    # guides.
    @property
    def metrics_variables(self):
        metric = self._sharpness.metric
        return super().metrics_variables + ([] if metric is None else metric.variables)

    def reset_metrics(self):
        super().reset_metrics()
        if self._sharpness.metric is not None:
            self._sharpness.metric.reset_state()

    def get_metrics_result(self):
        logs, metric = super().get_metrics_result(), self._sharpness.metric
        return logs if metric is None or self._sharpness.hidden else {**logs, "sharpness": metric.result()}

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        return {**keras_private.portable(config), "sam": keras.saving.serialize_keras_object(self.sam)}

    def compile_from_config(self, config):
        options = keras.saving.deserialize_keras_object(keras_private.portable(config))
        try:
            inspect.signature(self.compile).bind(**options)
        except TypeError as error:
            warnings.warn(
                f"`{self.name}` is loaded without being compiled: {type(self).__name__} has a `compile` of its own, "
                f"which does not take what Keras has saved ({error}). Call it, or give the class a "
                "`get_compile_config` and a `compile_from_config`.",
                stacklevel=2,
            )
            return
        self.compile(**options)
        # Keras loads the optimizer's variables next, and drops them all unless each exists already.
        if self.built:
            rule_state.create(self)

    def _is_active(self):
        """A constant radius of 0 asks for no second pass ever: that is Keras's own step, to the bit."""
        return self.sam is not None and self.sam.perturbs

    @contextlib.contextmanager
    def _without_sharpness(self):
        before, self._sharpness.hidden = self._sharpness.hidden, True
        try:
            yield
        finally:
            self._sharpness.hidden = before

    def _check_trainable(self):
        if self.optimizer is None:
            raise ValueError(
                f"Received `sam={self.sam!r}` without an optimizer for `{self.name}`: SAM chooses the gradient, an "
                "optimizer applies it. Pass `optimizer=…`, or `sam=None` for a model that only predicts."
            )
        if self.sam.uses_momentum:
            keras_private.check_momentum(self.optimizer)
        backend.check_model(self)
        if isinstance(self.sam.m, int):
            check_averaged(self, "micro-batches", otherwise=None)
        if super().train_step.__func__ is not keras.Model.train_step:
            raise ValueError(
                f"{type(self).__name__} inherits a `train_step` that SAM's replaces, so that it would never be called. "
                "Move its loss to `compute_loss` and its metrics to `compute_metrics`, or pass `sam=None`."
            )
        own = type(self).train_step
        if own is not SAMTrainer.train_step and not _mentions(inspect.unwrap(own), "train_step"):
            raise ValueError(
                f"{type(self).__name__} has a `train_step` of its own that does not call `super().train_step`, so that "
                "SAM would never run. Move its loss to `compute_loss` and its metrics to `compute_metrics`, or pass "
                "`sam=None`."
            )


def _check_names(metrics, args, kwargs):
    made = [value for value in keras.tree.flatten((metrics, args, kwargs)) if isinstance(value, keras.Metric)]
    # `metrics` and `weighted_metrics`, which take functions and names as well.
    others = keras.tree.flatten((args[3:5], kwargs.get("metrics"), kwargs.get("weighted_metrics")))
    for value in made + others:
        name = value if isinstance(value, str) else getattr(value, "name", getattr(value, "__name__", None))
        if name == "sharpness":
            raise ValueError(
                f"Received the metric {value} with the name that SAM's own log has: give it another one, such as "
                "`keras.metrics.MeanMetricWrapper(function, name=…)` for a function."
            )


def _mentions(function, name):
    """Whether a function, or one inside of it, reads an attribute of that name."""

    def names(code):
        inside = (constant for constant in code.co_consts if inspect.iscode(constant))
        return {*code.co_names}.union(*map(names, inside))

    return name in names(function.__code__)
