"""What README and the docstrings tell a reader to type runs."""

import doctest
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import required

import keras_sam

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
DOCS = README.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PUBLIC = [
    keras_sam.SAM,
    keras_sam.SAM.gradient,
    keras_sam.RandomPerturbation,
    keras_sam.ASAM,
    keras_sam.GSAM,
    keras_sam.FriendlySAM,
    keras_sam.LookSAM,
    keras_sam.MSAM,
    keras_sam.schedules.EveryK,
    keras_sam.schedules.LinkedToLearningRate,
    keras_sam.SAMModel,
    keras_sam.SAMModel.from_model,
    keras_sam.SAMTrainer,
    keras_sam.SAMTrainer.compile,
    keras_sam.in_ascent,
    keras_sam.rules.get,
    keras_sam.backend.value_and_grad,
    keras_sam.callbacks.BackupAndRestore,
    keras_sam.callbacks.InnerMaximization,
    keras_sam.callbacks.SharpnessLogger,
    keras_sam.sharpness.average_sharpness,
    keras_sam.sharpness.filter_normalized_direction,
    keras_sam.sharpness.generalization_score,
    keras_sam.sharpness.hessian_density,
    keras_sam.sharpness.hessian_eigenvalues,
    keras_sam.sharpness.hessian_trace,
    keras_sam.sharpness.loss_surface,
    keras_sam.sharpness.pac_bayes_bound,
    keras_sam.sharpness.sharpness,
]


class MyClassifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_readmes_examples_run():
    training, measuring = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    random = np.random.default_rng(0)
    scope = {"x_train": random.normal(size=(16, 28, 28, 1)).astype("float32"), "y_train": random.integers(0, 10, 16)}
    exec(training.replace("epochs=10", "epochs=1, verbose=0"), scope)
    assert set(scope["model"].history.history) == {"loss", "accuracy", "sharpness"}
    # A network of fewer weights, for the time that it takes.
    inputs = keras.Input((28, 28, 1))
    scope["model"] = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(inputs)))
    scope["model"].compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    exec(measuring, scope)
    assert scope["eigenvalues"].shape == (5,)
    assert scope["rises"].loss.shape == (3,)
    assert scope["surface"].loss.shape == (5, 5)


def run_page(page, **scope):
    """Runs the code of a page, block by block; returns what it has defined."""
    random = np.random.default_rng(0)
    scope |= {"x_train": random.normal(size=(16, 28, 28, 1)).astype("float32"), "y_train": random.integers(0, 10, 16)}
    # What a page says of JAX is run by test_jax_distribution.py and by the processes of test_jax_processes.py.
    text = page.read_text().partition("## JAX")[0]
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        # On all four devices, by the one strategy of that size that a process of tests can have.
        exec(code.replace("tf.distribute.MirroredStrategy()", "mirrored(4)"), scope)
    return scope


@pytest.fixture
def measured(mirrored):
    """What the pages of the guide talk about: a small model, and its data."""
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel.from_model(keras.Model(inputs, keras.layers.Dense(8)(inputs)))
    model.compile("sgd", "mse")
    x, y = np.ones((8, 3)), np.ones((8, 8))
    network = {"make_network": lambda: keras.Model(inputs, keras.layers.Dense(8)(inputs))}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    scope = {"keras": keras, "keras_sam": keras_sam, "model": model, "x": x, "y": y, "dataset": dataset, **network}
    return {**scope, "mirrored": mirrored}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, measured):
    scope = run_page(page, **measured)
    if page.name == "guide.md":
        # What the text says of each schedule.
        assert [float(scope["warm_up"](step)) for step in (0, 500)] == pytest.approx([0.0, 0.025])
        assert float(scope["warm_up"](10**6)) == pytest.approx(0.05)
        assert [float(scope["late"](step)) for step in (8000, 8001)] == pytest.approx([0.0, 0.05])
        assert scope["model"].sam.m == 32
    if page.name == "distribution.md":
        assert set(scope["model"].history.history) == {"loss", "sharpness"}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__qualname__)
def test_docstring_has_a_runnable_example(thing):
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(inputs))
    scope = {"keras": keras, "keras_sam": keras_sam, "np": np, "model": model, "MyClassifier": MyClassifier}
    example = doctest.DocTestParser().get_doctest(thing.__doc__, scope, thing.__qualname__, None, 0)
    assert example.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert result.failed == 0


def test_the_site_is_built_without_a_warning(tmp_path):
    """Links, anchors and the names in the reference included."""
    required("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "api" / "index.html").read_text()
    for name in keras_sam.sharpness.__all__:
        if name[0].islower():
            assert f'id="keras_sam.sharpness.{name}"' in reference
