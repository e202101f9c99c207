"""What README and the docstrings tell a reader to type runs."""

import doctest
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_sam

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
PUBLIC = [
    keras_sam.SAM,
    keras_sam.SAM.gradient,
    keras_sam.RandomPerturbation,
    keras_sam.SAMModel,
    keras_sam.SAMModel.from_model,
    keras_sam.SAMTrainer,
    keras_sam.SAMTrainer.compile,
    keras_sam.in_ascent,
    keras_sam.rules.get,
    keras_sam.backend.value_and_grad,
]


class MyClassifier(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_readmes_example_trains():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    random = np.random.default_rng(0)
    scope = {"x_train": random.normal(size=(16, 28, 28, 1)).astype("float32"), "y_train": random.integers(0, 10, 16)}
    exec(code.replace("epochs=10", "epochs=1, verbose=0"), scope)
    assert set(scope["model"].history.history) == {"loss", "accuracy", "sharpness"}


def test_readmes_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__qualname__)
def test_docstring_has_a_runnable_example(thing):
    inputs = keras.Input((3,))
    model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(inputs))
    scope = {"keras": keras, "keras_sam": keras_sam, "np": np, "model": model, "MyClassifier": MyClassifier}
    example = doctest.DocTestParser().get_doctest(thing.__doc__, scope, thing.__qualname__, None, 0)
    assert example.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert result.failed == 0
