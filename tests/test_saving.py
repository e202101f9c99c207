"""Nothing is lost between processes: saved, loaded elsewhere and trained on equals trained at a stretch."""

import contextlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import BACKEND, required
from keras import layers
from oracle import to_numpy

import keras_sam

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(24, 3)).astype("float32"), RANDOM.normal(size=(24, 2)).astype("float32")


def net(cls=keras_sam.SAMModel):
    inputs = keras.Input((3,))
    # No Dropout: Keras does not save the state of its seeds.
    x = layers.BatchNormalization()(layers.Dense(8, "relu", kernel_regularizer="l2")(inputs))
    return cls(inputs, layers.Dense(2)(x))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.norm, self.last = layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dense(2)

    def build(self, shape):
        self.first.build(shape)
        self.norm.build((None, 8))
        self.last.build((None, 8))

    def call(self, x):
        return self.last(self.norm(self.first(x)))


def subclassed(cls=None):
    model = Subclassed()
    model.build((None, 3))
    return keras_sam.SAMModel.from_model(model)


RULES = {
    "sam": lambda: keras_sam.SAM(rho=0.1),
    "p": lambda: keras_sam.SAM(rho=0.1, p=float("inf")),
    "schedule": lambda: keras_sam.SAM(keras.optimizers.schedules.ExponentialDecay(0.2, 4, 0.5), p=1.5),
    "late": lambda: keras_sam.SAM(keras.optimizers.schedules.PiecewiseConstantDecay([7], [0.0, 0.1])),
}
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 12), weight_decay=0.01),
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)),
}
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}
CASES = [("sam", "adam", net), ("p", "sgd", net), ("schedule", "loss scale", net), ("late", "adam", subclassed)]
# With Adam's moments and the place in two schedules.
BETWEEN_BACKENDS = ("schedule", "adam", net)
ORIGINALS = {"net": net, "sequential": lambda cls: keras.Sequential([keras.Input((3,)), layers.Dense(2)])}


def compiled(rule, optimizer, build):
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(OPTIMIZERS[optimizer](), "mse", metrics=[keras.metrics.MeanAbsoluteError()], sam=RULES[rule]())
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    return model


def trained(case, path):
    """The model after four epochs at a stretch, saved on the way when two have ended."""
    model = compiled(*case)

    def save(epoch, logs):
        if epoch == 1:
            model.save(path)

    model.fit(X, Y, epochs=4, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=save)], **FIT)
    return model


# Starting a process costs more than all that one does here, so that there is one a backend. What needs keras_sam to
# load comes second.
ELSEWHERE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import conftest, keras, numpy as np
assert "keras_sam" not in sys.modules
sys.modules["keras_sam"] = None
for path in folder.glob("*.plain.keras"):
    x = np.load(path.with_suffix(".x.npy"))
    np.save(path.with_suffix(".y.npy"), keras.models.load_model(path).predict(x, verbose=0))
del sys.modules["keras_sam"]
import keras_sam, test_saving
for path in folder.glob("*.sam.keras"):
    model = keras.models.load_model(path)
    model.fit(test_saving.X, test_saving.Y, epochs=4, initial_epoch=2, **test_saving.FIT)
    variables = [test_saving.to_numpy(v) for v in model.variables + model.optimizer.variables]
    np.savez(path.with_suffix(".npz"), *variables)
    path.with_suffix(".txt").write_text(str(model.sam.get_config()))
"""


def go_on_in_a_new_process(folder, backend):
    command = [sys.executable, "-c", ELSEWHERE, folder, os.path.dirname(__file__)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The folder where a new process has gone on with every model, and what the models are in this process."""
    folder = tmp_path_factory.mktemp("models")
    models = {case: trained(case, folder / f"{case[0]}.sam.keras") for case in CASES}
    for name, build in ORIGINALS.items():
        original = build(keras.Model)
        models[name] = keras_sam.SAMModel.from_model(original)
        models[name].compile("sgd", "mse")
        models[name].fit(X, Y, **FIT)
        original.save(folder / f"{name}.plain.keras")
        np.save(folder / f"{name}.plain.x.npy", X)
    go_on_in_a_new_process(folder, BACKEND)
    return folder, models


def assert_is_resumed(path, model, **tolerance):
    assert path.with_suffix(".txt").read_text() == str(model.sam.get_config())
    resumed = np.load(path.with_suffix(".npz"))
    variables = model.variables + model.optimizer.variables
    assert len(resumed.files) == len(variables)
    for name, variable in zip(resumed.files, variables):
        np.testing.assert_allclose(resumed[name], to_numpy(variable), err_msg=variable.path, **tolerance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[1]}")
def test_save_load_in_a_new_process_and_resume_equals_training_at_a_stretch(case, elsewhere):
    folder, models = elsewhere
    assert_is_resumed(folder / f"{case[0]}.sam.keras", models[case], rtol=0, atol=0)


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_shared_original_loads_without_keras_sam(name, elsewhere):
    folder, models = elsewhere
    np.testing.assert_array_equal(np.load(folder / f"{name}.plain.y.npy"), models[name].predict(X, verbose=0))


@pytest.fixture(scope="module")
def between(tmp_path_factory):
    path = tmp_path_factory.mktemp("between") / "model.sam.keras"
    return path, trained(BETWEEN_BACKENDS, path)


@pytest.mark.parametrize("backend", {"tensorflow": ["jax", "torch"]}.get(BACKEND, ["tensorflow"]))
def test_a_model_trained_on_one_backend_resumes_on_another(backend, between):
    required(backend)
    path, model = between
    go_on_in_a_new_process(path.parent, backend)
    assert_is_resumed(path, model, rtol=2e-3, atol=2e-5)
    path.with_suffix(".npz").unlink()


def test_an_interrupted_fit_is_taken_up_by_backup_and_restore(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def fit(*callbacks):
        model = compiled("late", "adam", net)
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(X, Y, epochs=4, callbacks=callbacks, **FIT)
        return model

    straight = fit()
    fit(keras.callbacks.BackupAndRestore(tmp_path), Interrupt())
    resumed = fit(keras.callbacks.BackupAndRestore(tmp_path))
    assert int(resumed.optimizer.iterations) == 12
    for got, want in zip(resumed.variables, straight.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(got), to_numpy(want), err_msg=want.path)


def test_weights_move_between_sam_and_plain_models(tmp_path):
    model, plain = compiled("sam", "adam", net), net(keras.Model)
    model.fit(X, Y, **FIT)
    plain.compile("adam", "mse", metrics=["mae"])
    model.save_weights(tmp_path / "sam.weights.h5")
    plain.load_weights(tmp_path / "sam.weights.h5")
    np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))
    plain.fit(X, Y, **FIT)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(plain.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("rule", [keras_sam.FriendlySAM(0.1), keras_sam.LookSAM(0.1, k=3)], ids=repr)
def test_weights_alone_bring_the_state_of_optimizer_and_rule(rule, tmp_path):
    def made():
        keras.utils.set_random_seed(0)
        model = net()
        model.compile("adam", "mse", sam=rule)
        model.optimizer.build(model.trainable_variables)
        return model

    model, resumed = made(), made()
    model.fit(X, Y, **FIT)
    model.save_weights(tmp_path / "model.weights.h5")
    resumed.load_weights(tmp_path / "model.weights.h5")
    for trained in (model, resumed):
        trained.fit(X, Y, **FIT)
    kept, loaded = ([*m.variables, *m.optimizer.variables] for m in (model, resumed))
    for variable, other in zip(kept, loaded, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), to_numpy(other), err_msg=variable.path)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is TensorFlow's")
@pytest.mark.parametrize("build", [net, subclassed])
def test_export_serves_what_predict_says(build, tmp_path):
    model = compiled("sam", "adam", build)
    model.fit(X, Y, **FIT)
    model.export(tmp_path / "served", verbose=False)
    import tensorflow as tf

    loaded = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(loaded.serve(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_clone_and_json_keep_the_class():
    model = net()
    assert type(keras.models.clone_model(model)) is type(model)
    assert type(keras.models.model_from_json(model.to_json())) is type(model)


def test_sam_none_survives_saving(tmp_path):
    model = net()
    model.compile("sgd", "mse", sam=None)
    model.save(tmp_path / "none.keras")
    assert keras.models.load_model(tmp_path / "none.keras").sam is None
