import ast
import importlib
import pathlib
import re

import keras
import pytest

import keras_sam
from keras_sam.backend import keras_private


@pytest.mark.parametrize("path", keras_private.IMPORTS)
def test_keras_still_has_what_is_imported(path):
    module, name = path.rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name), f"Keras {keras.__version__} renamed {path}"


@pytest.mark.parametrize("name", keras_private.ATTRIBUTES | keras_private.METHODS)
def test_keras_still_has_the_attributes(name):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "mse")
    assert hasattr(model, name), f"Keras {keras.__version__} renamed Model.{name}"


@pytest.mark.parametrize("name", keras_private.OPTIMIZER_ATTRIBUTES)
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "Lion"])
def test_keras_still_has_the_attributes_of_optimizers(optimizer, name):
    optimizer = getattr(keras.optimizers, optimizer)()
    optimizer.build([keras.Variable([1.0])])
    assert hasattr(optimizer, name), f"Keras {keras.__version__} renamed {type(optimizer).__name__}.{name}"


def test_keras_still_names_the_state_of_a_seed():
    state = keras.random.SeedGenerator(0).state
    assert keras_private.is_seed(state), f"Keras {keras.__version__} renamed it to {state.name}"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about Keras's trainer for TensorFlow")
@pytest.mark.parametrize("name", keras_private.TENSORFLOW_METHODS)
def test_keras_still_has_the_methods_that_are_overridden(name):
    assert hasattr(keras.Model, name), f"Keras {keras.__version__} renamed Model.{name}"


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="about the torch backend")
def test_keras_still_has_the_modules_of_torchs_optimizers():
    path = type(keras.optimizers.SGD()).__module__
    assert path.startswith(keras_private.TORCH_OPTIMIZERS), f"Keras {keras.__version__} moved them to {path}"


def test_no_other_file_touches_a_private_name():
    """`keras.src` and the attributes above occur in keras_private.py alone."""
    names = "|".join(
        map(re.escape, keras_private.ATTRIBUTES | keras_private.METHODS | keras_private.OPTIMIZER_ATTRIBUTES)
    )
    private = re.compile(rf"keras\.src|\.(?:{names})\b")
    root = pathlib.Path(keras_sam.__file__).parent
    found = [path.name for path in root.rglob("*.py") if private.search(path.read_text())]
    assert found == ["keras_private.py"]


def test_every_other_private_name_is_our_own():
    root = pathlib.Path(keras_sam.__file__).parent
    defined, read = {"_asdict", "_fields", "_replace"}, set()  # of named tuples
    for path in root.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        defined.update(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))
        defined.update(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        defined.update(node.attr for node in attributes if isinstance(node.ctx, ast.Store))
        if path.name != "keras_private.py":
            read.update(node.attr for node in attributes if isinstance(node.ctx, ast.Load))
    assert {name for name in read - defined if name.startswith("_") and not name.endswith("__")} == set()


def test_only_the_backend_imports_a_backend():
    root = pathlib.Path(keras_sam.__file__).parent
    imports = re.compile(r"^\s*(?:import|from) (?:tensorflow|jax|torch)\b", re.MULTILINE)
    found = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if imports.search(path.read_text())}
    assert found <= {"backend", "experiments"}
