"""SAMModel: a Keras model whose `fit` follows a sharpness-aware rule."""

import keras

from keras_sam.backend import keras_private
from keras_sam.trainer import SAMTrainer


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
            A `SAMModel`, not compiled; `model` itself if it is a `SAMTrainer` already. Training it trains `model`,
            which can be saved without keras_sam.

        Raises:
            ValueError: If `model` is no Keras model, is not built, or overrides a method of training.

        Example:

        >>> model = keras_sam.SAMModel.from_model(keras.applications.EfficientNetB0(weights=None))
        """
        if isinstance(model, SAMTrainer):
            return model
        _check_wrappable(model)
        graph = None
        if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
            graph = model.inputs[0], model.outputs[0]
        elif isinstance(model, keras_private.Functional) and type(model).call is keras_private.Functional.call:
            graph = model.input, model.output
        if graph is not None:
            twin = cls(*graph, name=model.name)
            # With float16 among it `compile` scales the loss.
            twin.dtype_policy = model.dtype_policy
            return twin
        if cls is not SAMModel:
            raise ValueError(
                f"`{cls.__name__}.from_model` received a {type(model).__name__}, a subclassed model, whose `call` it "
                "cannot take over; expected a Functional or Sequential one. Write "
                f"`class C({cls.__name__}, {type(model).__name__})` instead."
            )
        wrapped = SubclassedSAMModel(model, name=model.name, dtype=model.dtype_policy)
        # With the shape that Keras has recorded, for `export`, where it is that of a single input.
        shape = model.get_build_config() or {}
        if "input_shape" in shape:
            wrapped.build_from_config(shape)
        wrapped.built = True
        return wrapped


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
        policy = keras.saving.serialize_keras_object(self.dtype_policy)
        return {"name": self.name, "dtype": policy, "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        model, policy = (keras.saving.deserialize_keras_object(config[name]) for name in ("model", "dtype"))
        return cls(model, name=config["name"], dtype=policy)


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
