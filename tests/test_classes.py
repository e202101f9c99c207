"""Every way to make a model that trains with SAM, and every way that is refused."""

import copy
import subprocess
import sys

import keras
import nets
import numpy as np
import oracle
import pytest
from conftest import BACKEND, required
from keras import layers, ops
from oracle import to_numpy

import keras_sam
from keras_sam.model import FunctionalSAMModel

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :2] * 0.5


class Net:
    """A forward pass for subclassed models."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.last = layers.Dense(4, "tanh"), layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))


def functional(cls):
    inputs = keras.Input((3,))
    return cls(inputs, layers.Dense(2)(layers.Dense(4, "tanh")(inputs)))


def assert_trains_as_the_oracle(model, plain):
    """One step of both from the same weights."""
    plain.set_weights(model.get_weights())
    plain.compile(keras.optimizers.SGD(0.1), "mse")
    model.compile(keras.optimizers.SGD(0.1), "mse", sam=keras_sam.SAM(rho=0.1))
    oracle.train_on_batch(plain, X, Y, rho=0.1)
    model.train_on_batch(X, Y)
    for got, want in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_functional_use_and_subclassing_do_not_get_in_each_others_way():
    """Keras rewrites the bases of a class that is built functionally; SAMModel's have to stay, in both orders."""
    bases = keras_sam.SAMModel.__bases__

    class Before(Net, keras_sam.SAMModel):
        pass

    class AsFunctional(keras_sam.SAMModel):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs)

    assert Before()(X).shape == (16, 2)
    assert_trains_as_the_oracle(functional(keras_sam.SAMModel), functional(keras.Model))
    assert_trains_as_the_oracle(functional(AsFunctional), functional(keras.Model))

    class After(Net, keras_sam.SAMModel):
        pass

    for cls in (Before, After):
        model = cls()
        model(X)
        assert_trains_as_the_oracle(model, functional(keras.Model))
    assert keras_sam.SAMModel.__bases__ == bases
    assert isinstance(functional(AsFunctional), FunctionalSAMModel)
    assert functional(AsFunctional).layers[0].name.startswith("input")


def test_the_mixin_serves_models_of_others():
    class Custom(Net, keras.Model):
        """Its own `compute_loss`, in the form of Keras before `training` was an argument, and its own `compile`."""

        def compile(self, optimizer, factor, **kwargs):
            super().compile(optimizer, **kwargs)
            self.factor = factor

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return self.factor * ops.mean((y_pred - ops.convert_to_tensor(y)) ** 4)

    class SAMCustom(keras_sam.SAMTrainer, Custom):
        pass

    plain, model = Custom(), SAMCustom()
    plain(X), model(X)
    plain.set_weights(model.get_weights())
    plain.compile(keras.optimizers.SGD(0.1), factor=2.0)
    model.compile(keras.optimizers.SGD(0.1), factor=2.0, sam=keras_sam.SAM(rho=0.2))
    oracle.train_on_batch(plain, X, Y, rho=0.2)
    assert set(model.train_on_batch(X, Y, return_dict=True)) == {"loss", "sharpness"}
    for got, want in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="half a minute on JAX, and none of its layers is a backend's own")
def test_the_mixin_on_a_keras_hub_classifier_with_lora():
    """Its own `compile` with "auto" everywhere, a preprocessor, a functional class made by its own constructor."""
    keras_hub = required("keras_hub")

    class SAMClassifier(keras_sam.SAMTrainer, keras_hub.models.BertTextClassifier):
        pass

    def made(cls):
        keras.utils.set_random_seed(1)
        sizes = {"vocabulary_size": 30, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
        backbone = keras_hub.models.BertBackbone(**sizes, dropout=0.0, max_sequence_length=6)
        backbone.enable_lora(2)
        return cls(backbone=backbone, num_classes=3, dropout=0.0)

    random = np.random.default_rng(0)
    tokens = {
        "token_ids": random.integers(0, 30, (16, 6)),
        "segment_ids": np.zeros((16, 6), "int32"),
        "padding_mask": np.ones((16, 6), "int32"),
    }
    labels = random.integers(0, 3, 16)
    model, plain = made(SAMClassifier), made(keras_hub.models.BertTextClassifier)
    assert any("lora" in v.path for v in model.trainable_variables)
    model.compile(optimizer=keras.optimizers.SGD(0.1), sam=keras_sam.SAM(rho=0.1))
    plain.compile(optimizer=keras.optimizers.SGD(0.1))
    clean, perturbed = oracle.train_on_batch(plain, tokens, labels, rho=0.1)
    logs = model.train_on_batch(tokens, labels, return_dict=True)
    assert set(logs) == {"loss", "sharpness", "sparse_categorical_accuracy"}
    np.testing.assert_allclose([logs["loss"], logs["sharpness"]], [clean, perturbed - clean], rtol=1e-3)
    for got, want in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    # What the classifier does by itself goes on: "auto" losses and metrics, `fit` with several inputs.
    assert set(model.fit(tokens, labels, batch_size=8, verbose=0).history) == set(logs)


def test_the_mixin_on_a_functional_class():
    class Mixed(keras_sam.SAMTrainer, keras.Model):
        pass

    assert_trains_as_the_oracle(functional(Mixed), functional(keras.Model))


def test_a_compute_metrics_of_the_users_own_keeps_its_logs_beside_the_sharpness():
    class Custom(Net, keras_sam.SAMModel):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            return {"own": ops.mean(y_pred)}

    model = Custom()
    model.compile("sgd", "mse")
    assert set(model.fit(X, Y, verbose=0).history) == {"own", "sharpness"}


class Guided(keras_sam.SAMModel):
    """As Keras's guides have it: every metric, but for the loss, by labels and predictions."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        for metric in self.metrics:
            if metric.name != "loss":
                metric.update_state(y, y_pred)
        return self.get_metrics_result()


@pytest.mark.parametrize("metric", ["mae", "sparse_categorical_accuracy"])
def test_a_loop_over_the_models_metrics_updates_the_users_alone(metric):
    logs = []
    loss, y = ("mse", Y) if metric == "mae" else ("sparse_categorical_crossentropy", np.arange(16) % 2)
    for cls in (keras_sam.SAMModel, Guided):
        keras.utils.set_random_seed(0)
        model = functional(cls)
        model.compile("sgd", loss, metrics=[metric])
        logs.append(model.fit(X, y, batch_size=8, shuffle=False, validation_data=(X, y), verbose=0).history)
        logs[-1].update(model.evaluate(X, y, verbose=0, return_dict=True))
    assert logs[1] == logs[0]
    assert "val_sharpness" not in logs[0]


@pytest.mark.parametrize(
    "build",
    [
        lambda: functional(keras.Model),
        lambda: keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(2)]),
        lambda: type("Subclassed", (Net, keras.Model), {})(),
    ],
    ids=["functional", "sequential", "subclassed"],
)
def test_from_model_shares_the_weights(build):
    original = build()
    original(X)
    model = keras_sam.SAMModel.from_model(original)
    assert model.name == original.name
    assert [id(v) for v in model.variables] == [id(v) for v in original.variables]
    assert_trains_as_the_oracle(model, functional(keras.Model))
    np.testing.assert_array_equal(model.predict(X, verbose=0), original.predict(X, verbose=0))


def test_from_model_passes_training_on_to_a_subclassed_model():
    seen = []

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x, training=False):
            seen.append(training)
            return self.dense(x)

    original = Subclassed()
    original(X)
    model = keras_sam.SAMModel.from_model(original)
    model.compile("sgd", "mse", run_eagerly=True)
    seen.clear()
    model.train_on_batch(X, Y)
    model.test_on_batch(X, Y)
    assert [bool(training) for training in seen[-3:]] == [True, True, False]


def test_from_model_keeps_dictionaries():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    original = keras.Model({"a": a, "b": b}, {"sum": layers.Add()([a, b]), "dense": layers.Dense(2)(a)})
    model = keras_sam.SAMModel.from_model(original)
    assert set(model({"a": X, "b": X})) == {"sum", "dense"}


class Doubled(keras.Sequential):
    """A Sequential whose forward pass is its own."""

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training, mask=mask)


def test_from_model_keeps_the_call_of_a_sequential_model():
    original = Doubled([keras.Input((3,)), layers.Dense(2)])
    np.testing.assert_array_equal(to_numpy(keras_sam.SAMModel.from_model(original)(X)), to_numpy(original(X)))


@keras.saving.register_keras_serializable()
class Plain(Net, keras.Model):
    pass


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_from_model_keeps_the_dtype_policy_by_which_losses_are_scaled(kind, tmp_path):
    if kind == "functional":
        original = functional(keras.Model)
        original.dtype_policy = "mixed_float16"
    else:
        original = called(Plain(dtype="mixed_float16"))
    model = keras_sam.SAMModel.from_model(original)
    model.compile("sgd", "mse")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    if kind == "subclassed":
        model.save(tmp_path / "model.keras")
        assert keras.saving.load_model(tmp_path / "model.keras").dtype_policy.name == "mixed_float16"


class LeavesALayer(Net):
    def build(self, shape):
        self.hidden.build(shape)


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
@pytest.mark.parametrize("net", [Net, LeavesALayer])
@pytest.mark.parametrize("rule", [keras_sam.SAM(0.1), keras_sam.FriendlySAM(0.1)], ids=repr)
def test_what_build_leaves_out_is_made_in_the_first_step(net, rule):
    """Keras's own `build` makes none of the layers, this one's makes the first."""

    def trained(build, net):
        class Model(net, keras_sam.SAMModel):
            pass

        keras.utils.set_random_seed(0)
        model = Model()
        build(model)
        model.compile(keras.optimizers.Adam(0.1), "mse", sam=rule)
        return model.fit(X, Y, batch_size=8, shuffle=False, verbose=0).history, model.get_weights()

    logs, weights = trained(lambda model: model.build((None, 3)), net)
    expected_logs, expected = trained(lambda model: model(X[:1]), Net)
    assert logs == expected_logs
    for got, want in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_what_train_on_batch_lists_by_place_has_the_place_that_it_has_in_keras():
    """Among the metrics of several outputs, which Keras sorts by name."""

    def listed(cls, **options):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        model = cls(inputs, [layers.Dense(2, name="a")(inputs), layers.Dense(2, name="v")(inputs)])
        model.compile("sgd", ["mse", "mse"], metrics=[["mae"], ["mae"]], **options)
        return model.train_on_batch(X, [Y, Y]), model.get_metrics_result()

    plain, _ = listed(keras.Model)
    with_sam, logs = listed(keras_sam.SAMModel, sam=keras_sam.SAM(0.1))
    np.testing.assert_allclose(with_sam, [*plain, float(logs["sharpness"])], rtol=1e-6)

    model = functional(keras_sam.SAMModel)
    model.compile("sgd", "mse")
    assert len(model.train_on_batch(X, Y)) == 2
    assert np.ndim(model.test_on_batch(X, Y)) == 0


def test_from_model_of_a_sam_model_is_that_model():
    model = functional(keras_sam.SAMModel)
    assert keras_sam.SAMModel.from_model(model) is model


@pytest.mark.skipif(BACKEND != "tensorflow", reason="minutes on JAX, and none of its layers is a backend's own")
def test_a_model_of_keras_applications_trains_as_the_oracle():
    """EfficientNet: SiLU, squeeze and excite, BatchNormalization, stochastic depth by Dropout, a Rescaling layer."""
    options = {"weights": None, "input_shape": (32, 32, 3), "classes": 4, "classifier_activation": None}
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    labels = np.arange(8) % 4
    models = []
    for wrap in (keras_sam.SAMModel.from_model, lambda model: model):
        keras.utils.set_random_seed(2)
        models.append(wrap(keras.applications.EfficientNetB0(**options)))
    for model in models:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Its 240 layers take TensorFlow a quarter of a minute to trace.
        model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    before = [to_numpy(v) for v in models[0].trainable_variables]
    clean, perturbed = oracle.train_on_batch(models[1], images, labels, rho=0.05)
    logs = models[0].train_on_batch(images, labels, return_dict=True)
    np.testing.assert_allclose([logs["loss"], logs["sharpness"]], [clean, perturbed - clean], rtol=1e-3)
    got, want = ([to_numpy(v) - b for v, b in zip(m.trainable_variables, before)] for m in models)
    error = np.sqrt(sum(((g - w) ** 2).sum() for g, w in zip(got, want)) / sum((w**2).sum() for w in want))
    assert error < 1e-3  # of the update's length; 4e-5 was seen


class OwnTrainStep(Net, keras.Model):
    def train_step(self, data):
        return {}


class OwnLoss(Net, keras.Model):
    def compute_loss(self, **kwargs):
        return ops.zeros(())


def called(model):
    model(X)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([layers.Dense(2)]), "that is not built"),
        (lambda: type("Unbuilt", (Net, keras.Model), {})(), "that is not built"),
        (lambda: called(OwnTrainStep()), r"its own `train_step`.*class SAMOwnTrainStep\(keras_sam.SAMTrainer"),
        (lambda: called(OwnLoss()), r"its own `compute_loss`.*class SAMOwnLoss\(keras_sam.SAMTrainer"),
        (lambda: layers.Dense(2), "received a Dense; expected a built `keras.Model`"),
    ],
)
def test_from_model_refuses_what_it_would_spoil(model, message):
    with pytest.raises(ValueError, match=message):
        keras_sam.SAMModel.from_model(model())


def test_from_model_of_a_subclass_refuses_a_forward_pass_that_it_cannot_take_over():
    class Mine(keras_sam.SAMModel):
        pass

    assert type(Mine.from_model(functional(keras.Model))) is Mine
    with pytest.raises(ValueError, match=r"class C\(Mine, Plain\)"):
        Mine.from_model(called(type("Plain", (Net, keras.Model), {})()))


def test_compile_refuses_a_train_step_that_would_never_be_called():
    class SAMOwn(keras_sam.SAMTrainer, OwnTrainStep):
        pass

    with pytest.raises(ValueError, match="inherits a `train_step`"):
        SAMOwn().compile("sgd", "mse")
    SAMOwn().compile("sgd", "mse", sam=None)


def test_compile_refuses_a_train_step_by_which_sam_would_never_run():
    class Mine(keras_sam.SAMModel):
        def train_step(self, *args):
            return {}

    class Wrapped(keras_sam.SAMModel):
        def train_step(self, *args):
            def traced():
                return super(Wrapped, self).train_step(*args)

            return traced()

    with pytest.raises(
        ValueError, match=r"Mine has a `train_step` of its own that does not call `super\(\).train_step`"
    ):
        functional(Mine).compile("sgd", "mse")
    functional(Mine).compile("sgd", "mse", sam=None)
    functional(Mine).compile("sgd", "mse", sam=keras_sam.SAM(0))
    model = functional(Wrapped)
    model.compile("sgd", "mse")
    assert model.train_on_batch(X, np.zeros(model.compute_output_shape(X.shape)), return_dict=True)["sharpness"] > 0


def test_a_wrapped_subclassed_model_is_built(tmp_path):
    source = called(type("Plain", (Net, keras.Model), {})())
    model = keras_sam.SAMModel.from_model(source)
    assert model.built
    model.save_weights(tmp_path / "before.weights.h5")
    before = [to_numpy(v) for v in source.trainable_variables]
    for variable in source.trainable_variables:
        variable.assign(variable + 1)
    model.load_weights(tmp_path / "before.weights.h5")
    for variable, value in zip(source.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    with pytest.raises(ValueError, match="matches no"):
        model.compile("sgd", "mse", sam=keras_sam.SAM(where="none of these"))


class OwnMetrics(keras_sam.SAMModel):
    """As in Keras's documentation of `compute_loss`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = ops.mean(ops.square(y_pred - y))
        self.loss_tracker.update_state(loss)
        return loss

    @property
    def metrics(self):
        return [self.loss_tracker]


def test_the_log_of_an_epoch_is_that_epochs_in_a_class_with_metrics_of_its_own():
    logs = []
    for cls in (OwnMetrics, keras_sam.SAMModel):
        keras.utils.set_random_seed(0)
        model = functional(cls)
        # Nothing is learned, so that the second epoch differs by its data alone.
        model.compile(keras.optimizers.SGD(0.0), "mse", sam=keras_sam.SAM(0.1))
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        logs.append(model.fit(3 * X, Y, batch_size=4, shuffle=False, verbose=0).history["sharpness"])
    np.testing.assert_allclose(*logs, rtol=1e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="there Keras's own metrics count what is masked")
@pytest.mark.parametrize("sam", [keras_sam.SAM(0.1), keras_sam.SAM(0.1, m=4, ascent_fraction=0.5)], ids=repr)
def test_metrics_leave_out_what_is_masked(sam):
    model, x, y = nets.masked(sam)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert [value for name, value in logs.items() if "accuracy" in name] == [1.0]


def test_a_step_that_loss_scaling_skips_is_left_out_of_the_sharpness():
    """Of the first batch the scaled gradient overflows in float16, the second has one of 0."""
    inputs = keras.Input((3,))
    dense = layers.Dense(2, use_bias=False, dtype="mixed_float16", kernel_initializer="ones")
    model = keras_sam.SAMModel(inputs, dense(inputs))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)), "mse", sam=keras_sam.SAM(0.1))
    x, y = np.repeat([100.0, 0.0], 4)[:, None] * np.ones((8, 3)), np.zeros((8, 2))
    assert model.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["sharpness"] == [0.0]


class WithoutConfig(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.05


def test_a_schedule_without_a_config_trains():
    model = functional(keras_sam.SAMModel)
    model.compile("sgd", "mse", sam=keras_sam.SAM(WithoutConfig()))
    assert set(model.fit(X, Y, verbose=0).history) == {"loss", "sharpness"}


@keras.saving.register_keras_serializable("mine")
class ASAM(keras_sam.SAM):
    pass


def test_a_registered_rule_with_the_name_of_ours_is_its_own():
    assert type(keras_sam.rules.get(keras.saving.serialize_keras_object(ASAM(0.3)))) is ASAM


def test_a_copy_of_a_random_rule_draws_its_numbers():
    rule = keras_sam.RandomPerturbation(0.1, m=3, where="kernel")
    copied = copy.deepcopy(rule)
    assert copied.get_config() == rule.get_config()
    weights = [keras.ops.ones((4,))]
    variables = [keras.Variable(weights[0], name="kernel")]
    for r in (rule, copied):
        r.drawn = to_numpy(r.ascend(weights, weights, r.step(2, variables))[0])
    np.testing.assert_array_equal(copied.drawn, rule.drawn)


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_a_format_that_loses_the_rule_is_refused(name, tmp_path):
    model = functional(keras_sam.SAMModel)
    model.compile("sgd", "mse", sam=None)
    with pytest.raises(ValueError, match=r"does not keep the rule.*`.keras`.*save_weights"):
        model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sam", ["sam", keras_sam.SAM(rho=0.1)], ids=repr)
def test_compile_refuses_a_model_without_an_optimizer(sam):
    model = functional(keras_sam.SAMModel)
    with pytest.raises(ValueError, match="without an optimizer"):
        model.compile(None, "mse", sam=sam)
    model.compile(None, "mse", sam=None)


def test_compile_refuses_a_model_with_nothing_to_train():
    model = functional(keras_sam.SAMModel)
    model.trainable = False
    with pytest.raises(ValueError, match=r"no trainable weights.*Unfreeze"):
        model.compile("sgd", "mse")


def test_a_model_that_turns_out_to_have_nothing_to_train_is_refused_in_its_first_step():
    class Empty(keras_sam.SAMModel):
        def call(self, x):
            return x[:, :2]

    model = Empty()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="no trainable weights"):
        model.fit(X, Y, verbose=0)


def test_after_a_compile_that_was_refused_another_one_works():
    model = functional(keras_sam.SAMModel)
    model.trainable = False
    with pytest.raises(ValueError, match="Unfreeze a layer"):
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`compile` was refused, call it again: .*Unfreeze a layer"):
        model.fit(X, Y, verbose=0)
    model.trainable = True
    model.compile("sgd", "mse")
    assert set(model.fit(X, Y, verbose=0).history) == {"loss", "sharpness"}


def test_a_metric_with_the_name_of_sams_log():
    def sharpness(y, y_pred):
        return ops.square(y - y_pred)

    model, metric = functional(keras_sam.SAMModel), keras.metrics.MeanSquaredError(name="sharpness")
    refused = pytest.raises(ValueError, match=r"the metric .* the name that SAM's own log has: give it another one")
    for metrics in ([metric], {"dense": [sharpness]}, ["mae", "sharpness"]):
        with refused:
            model.compile("sgd", "mse", metrics=metrics)
        with refused:
            model.compile("sgd", "mse", weighted_metrics=metrics)
        with refused:
            model.compile("sgd", "mse", None, metrics)
    # A loss has no log of its name.
    model.compile("sgd", sharpness)
    model.compile("sgd", "mse", metrics=[metric], sam=None)
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs["sharpness"] == logs["loss"]


def test_a_metric_of_the_model_s_own_with_the_name_of_sams_log():
    class Measured(Net, keras_sam.SAMModel):
        def __init__(self):
            super().__init__()
            self.measure = keras.metrics.Mean(name="sharpness")

    with pytest.raises(ValueError, match=r"the metric .* the name that SAM's own log has: give it another one"):
        Measured().compile("sgd", "mse")
    Measured().compile("sgd", "mse", sam=None)


@keras.saving.register_keras_serializable()
class Compiling(Net, keras_sam.SAMModel):
    def compile(self, optimizer, factor, **kwargs):
        super().compile(optimizer, "mse", **kwargs)
        self.factor = factor


def test_a_model_with_a_compile_of_its_own_is_loaded_without_being_compiled(tmp_path):
    """As by Keras, which cannot know `factor`."""
    model = Compiling()
    model.compile("sgd", factor=2.0)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=r"without being compiled: Compiling has a `compile` of its own"):
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert getattr(loaded, "optimizer", None) is None
    np.testing.assert_array_equal(to_numpy(loaded(X)), to_numpy(model(X)))


def test_compile_refuses_a_class_with_a_sam_of_its_own():
    class Segmenter(keras_sam.SAMModel):
        def __init__(self):
            super().__init__()
            self.sam = layers.Dense(2)

        def call(self, x):
            return self.sam(x)

    with pytest.raises(ValueError, match="Segmenter has an attribute `sam` of its own, where `compile` keeps the rule"):
        Segmenter().compile("sgd", "mse")


def test_compile_refuses_a_name_that_is_no_rule():
    with pytest.raises(ValueError, match="Did you mean 'sam'"):
        functional(keras_sam.SAMModel).compile("sgd", "mse", sam="smm")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="in a process of its own, which is the same on every backend")
def test_compile_refuses_a_backend_without_a_trainer():
    code = """
import keras, keras_sam
inputs = keras.Input((3,))
model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(inputs))
model.compile("sgd", "mse", sam=None)
try:
    model.compile("sgd", "mse")
except ValueError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", f"import os; os.environ['KERAS_BACKEND'] = 'numpy'\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "backend 'numpy'" in run.stdout
    assert "KERAS_BACKEND" in run.stdout
