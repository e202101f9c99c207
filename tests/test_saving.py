"""Nothing is lost between processes: saved, loaded elsewhere and trained on equals trained at a stretch."""

import contextlib
import os
import subprocess
import sys
import textwrap

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


def compiled(rule, optimizer, build):
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(OPTIMIZERS[optimizer](), "mse", metrics=["mae"], sam=RULES[rule]())
    return model


def in_a_new_process(code, *arguments, backend=BACKEND):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


RESUME = """
import sys, keras, numpy as np, keras_sam
sys.path.insert(0, sys.argv[3])
import test_saving
model = keras.models.load_model(sys.argv[1])
model.fit(test_saving.X, test_saving.Y, epochs=4, initial_epoch=2, **test_saving.FIT)
np.savez(sys.argv[2], *[test_saving.to_numpy(v) for v in model.variables + model.optimizer.variables])
print(model.sam.get_config())
"""


@pytest.mark.parametrize(("rule", "optimizer", "build"), CASES)
def test_save_load_in_a_new_process_and_resume_equals_training_at_a_stretch(rule, optimizer, build, tmp_path, request):
    straight, halved = compiled(rule, optimizer, build), compiled(rule, optimizer, build)
    straight.fit(X, Y, epochs=4, **FIT)
    halved.fit(X, Y, epochs=2, **FIT)
    halved.save(tmp_path / "model.keras")
    printed = in_a_new_process(RESUME, tmp_path / "model.keras", tmp_path / "resumed.npz", request.path.parent)
    assert printed.strip() == str(RULES[rule]().get_config())
    resumed = np.load(tmp_path / "resumed.npz")
    variables = straight.variables + straight.optimizer.variables
    assert len(resumed.files) == len(variables)
    for name, variable in zip(resumed.files, variables):
        np.testing.assert_array_equal(resumed[name], to_numpy(variable), err_msg=variable.path)


@pytest.mark.parametrize("backend", {"tensorflow": ["jax", "torch"]}.get(BACKEND, ["tensorflow"]))
def test_a_model_trained_on_one_backend_resumes_on_another(backend, tmp_path, request):
    """With Adam's moments and the place in two schedules."""
    required(backend)
    straight, halved = compiled("schedule", "adam", net), compiled("schedule", "adam", net)
    straight.fit(X, Y, epochs=4, **FIT)
    halved.fit(X, Y, epochs=2, **FIT)
    halved.save(tmp_path / "model.keras")
    paths = tmp_path / "model.keras", tmp_path / "resumed.npz", request.path.parent
    printed = in_a_new_process(RESUME, *paths, backend=backend)
    assert printed.strip() == str(RULES["schedule"]().get_config())
    resumed = np.load(tmp_path / "resumed.npz")
    variables = straight.variables + straight.optimizer.variables
    assert len(resumed.files) == len(variables)
    for name, variable in zip(resumed.files, variables):
        np.testing.assert_allclose(resumed[name], to_numpy(variable), rtol=2e-3, atol=2e-5, err_msg=variable.path)


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


LOAD_PLAIN = """
import sys
sys.modules["keras_sam"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
print(float(np.abs(model.predict(np.load(sys.argv[2])["x"], verbose=0)).sum()))
"""


@pytest.mark.parametrize("build", [net, lambda cls: keras.Sequential([keras.Input((3,)), layers.Dense(2)])])
def test_the_shared_original_loads_without_keras_sam(build, tmp_path):
    original = build(keras.Model)
    model = keras_sam.SAMModel.from_model(original)
    model.compile("sgd", "mse")
    model.fit(X, Y, **FIT)
    original.save(tmp_path / "plain.keras")
    np.savez(tmp_path / "x.npz", x=X)
    printed = in_a_new_process(LOAD_PLAIN, tmp_path / "plain.keras", tmp_path / "x.npz")
    assert float(printed) == float(np.abs(model.predict(X, verbose=0)).sum())


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
