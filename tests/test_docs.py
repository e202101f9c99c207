"""What README and the docstrings tell a reader to type runs."""

import doctest
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_sam

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
GUIDE = README.parent / "docs" / "guide.md"
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


def test_the_guides_code_runs():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    x, y = np.ones((8, 3)), np.ones((8, 2))
    scope = {"keras": keras, "keras_sam": keras_sam, "model": keras_sam.SAMModel.from_model(model), "x": x, "y": y}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(code.replace("order=20", "order=2"), scope)
    assert scope["model"].sam.m == 32
    # What the text says of each schedule.
    assert [float(scope["warm_up"](step)) for step in (0, 500)] == pytest.approx([0.0, 0.025])
    assert float(scope["warm_up"](10**6)) == pytest.approx(0.05)
    assert [float(scope["late"](step)) for step in (8000, 8001)] == pytest.approx([0.0, 0.05])


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
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
