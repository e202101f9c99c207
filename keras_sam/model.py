"""SAMModel: a Keras model whose `fit` follows a sharpness-aware rule."""

import contextlib
import types

import keras

from keras_sam import backend, rules
from keras_sam.backend import keras_private


class SAMTrainer:
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
            Keras's backend, or if the class has a `train_step` of its own.

    Example:

    >>> class SAMClassifier(keras_sam.SAMTrainer, MyClassifier):
    ...     pass
    >>> SAMClassifier().compile("adamw", "mse", sam=keras_sam.SAM(rho=0.05))

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), Algorithm 1.
    """

    sam = None
    # A namespace, since Keras saves every metric that is an attribute, and plain models have none to load it into.
    _sharpness = types.SimpleNamespace(metric=None, hidden=False)

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
        super().compile(*args, **kwargs)
        # A constant radius of 0 asks for no second pass ever: that is Keras's own step, to the bit.
        active = rule is not None and rule.rho != 0
        self.sam = rule
        if active:
            self._check_trainable()
        metric = keras.metrics.Mean(name="sharpness") if active else None
        self._sharpness = types.SimpleNamespace(metric=metric, hidden=False)

    def train_step(self, *args):
        if self._sharpness.metric is None:
            return super().train_step(*args)
        return backend.train_step(self, self._sharpness.metric, *args)

    def test_step(self, *args):
        with self._without_sharpness():
            return super().test_step(*args)

    def evaluate(self, *args, **kwargs):
        with self._without_sharpness():
            return super().evaluate(*args, **kwargs)

    @property
    def metrics(self):
        metric = self._sharpness.metric
        return super().metrics + ([] if metric is None else [metric])

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        if self._sharpness.hidden:
            logs.pop("sharpness", None)
        return logs

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "sam": keras.saving.serialize_keras_object(self.sam)} if config else config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        # Keras loads the optimizer's variables next, and drops them all unless each exists already.
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

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
        backend.check_model(self)
        if super().train_step.__func__ is not keras.Model.train_step:
            raise ValueError(
                f"{type(self).__name__} inherits a `train_step` that SAM's replaces, so that it would never be called. "
                "Move its loss to `compute_loss` and its metrics to `compute_metrics`, or pass `sam=None`."
            )


@keras.saving.register_keras_serializable("keras_sam")
class SAMModel(SAMTrainer, keras.Model):
    """A `keras.Model` that trains with Sharpness-Aware Minimization.

    ```
    g       = ∇L(w)
    epsilon = rho * g / ‖g‖₂
    w       = w - learning_rate * ∇L(w + epsilon)
    ```

    Use it wherever `keras.Model` stands: build it from `inputs` and `outputs`, subclass it, or wrap a model that
    exists with `SAMModel.from_model`.

    Args:
        inputs: As in `keras.Model`.
        outputs: As in `keras.Model`.
        name: Optional string, the model's name.

    Raises:
        ValueError: In `compile`, see `SAMTrainer`.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(inputs))
    >>> model.compile("sgd", "mse", sam=keras_sam.SAM(rho=0.05))
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> sorted(history.history)
    ['loss', 'sharpness']

    Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), Algorithm 1.
    """

    def __new__(cls, *args, **kwargs):
        if cls is SAMModel and keras_private.functional_init_arguments(args, kwargs):
            cls = FunctionalSAMModel
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args, **kwargs):
        if keras_private.functional_init_arguments(args, kwargs):
            _make_functional(type(self))
            keras_private.Functional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)

    @classmethod
    def from_model(cls, model):
        """A SAM-trained twin of a built model, which shares its layers and weights.

        Args:
            model: A built `keras.Model`: Functional, Sequential or subclassed.

        Returns:
            A `SAMModel`, not compiled. Training it trains `model`, which can be saved without keras_sam.

        Raises:
            ValueError: If `model` is no Keras model, is not built, or overrides a method of training.

        Example:

        >>> model = keras_sam.SAMModel.from_model(keras.applications.EfficientNetB0(weights=None))
        """
        if isinstance(model, SAMTrainer):
            return model
        _check_wrappable(model)
        if isinstance(model, keras.Sequential):
            return cls(model.inputs[0], model.outputs[0], name=model.name)
        if isinstance(model, keras_private.Functional) and type(model).call is keras_private.Functional.call:
            return cls(model.input, model.output, name=model.name)
        if cls is not SAMModel:
            raise ValueError(
                f"`{cls.__name__}.from_model` received a {type(model).__name__}, a subclassed model, whose `call` it "
                "cannot take over; expected a Functional or Sequential one. Write "
                f"`class C({cls.__name__}, {type(model).__name__})` instead."
            )
        return SubclassedSAMModel(model, name=model.name)


@keras.saving.register_keras_serializable("keras_sam")
class FunctionalSAMModel(SAMModel, keras_private.Functional):
    """What `SAMModel(inputs, outputs)` makes, as `keras.Model(inputs, outputs)` makes a Functional model.

    Keras would rewrite `SAMModel.__bases__` instead, after which no subclass of it could be constructed.
    """


@keras.saving.register_keras_serializable("keras_sam")
class SubclassedSAMModel(SAMModel):
    """What `SAMModel.from_model` makes of a subclassed model: its forward pass is the model's."""

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def build(self, input_shape):
        """The model itself is built; Keras records the shape, for `export` and for loading."""

    def call(self, inputs, training=None):
        # `training` reaches the inner model by Keras's call context, whether its `call` takes it or not.
        return self.model(inputs)

    def get_config(self):
        return {"name": self.name, "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["model"]), name=config["name"])


def _make_functional(cls):
    """Put `Functional` into the hierarchy of a user's class, which Keras does for subclasses of `keras.Model`."""
    if cls is SAMModel:
        return FunctionalSAMModel
    if issubclass(cls, SAMModel) and not issubclass(cls, FunctionalSAMModel):
        cls.__bases__ = tuple(_make_functional(base) for base in cls.__bases__)
    return cls


TRAINING_METHODS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "compile", "fit")


def _check_wrappable(model):
    name = type(model).__name__
    if not isinstance(model, keras.Model):
        raise ValueError(f"`from_model` received a {name}; expected a built `keras.Model`.")
    if not model.built:
        raise ValueError(
            f"`from_model` received `{model.name}`, a {name} that is not built, so that it has no weights to share "
            "yet. Call it on a batch or use `build(input_shape)`, or begin a Sequential model with `keras.Input`."
        )
    own = [method for method in TRAINING_METHODS if getattr(type(model), method) is not getattr(keras.Model, method)]
    if own:
        raise ValueError(
            f"`from_model` received `{model.name}`, whose class {name} has its own `{'`, `'.join(own)}`, which the new "
            f"model would lose. Write `class SAM{name}(keras_sam.SAMTrainer, {name})` instead, and move what its "
            "`train_step` computes to `compute_loss` and `compute_metrics`: SAM replaces `train_step` itself."
        )
