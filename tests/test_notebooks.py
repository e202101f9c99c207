"""The notebooks run from their first cell to their last, in smoke mode; without what they need they say what to do."""

import json
import pathlib

import keras
import numpy as np
import pytest
from conftest import BACKEND, required

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
# On the backend that they are for.
NOTEBOOKS = {
    "tensorflow": ["finetune_efficientnet", "sharpness", "text"],
    "jax": ["colab_tpu"],
    "torch": ["text"],
}[BACKEND]


def cells(name):
    """The code of each cell, without what is for a notebook's own shell."""
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["\n".join(line for line in source.splitlines() if not line.startswith("%")) for source in sources]


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """What a notebook sets for its whole process is taken back."""
    required("matplotlib").use("agg")
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    monkeypatch.chdir(tmp_path)
    yield monkeypatch
    keras.config.set_dtype_policy("float32")
    if BACKEND == "jax":
        keras.distribution.set_distribution(None)


@pytest.mark.usefixtures("eager_functions")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, alone):
    alone.setenv("KERAS_SAM_SMOKE", "1")
    scope = {}
    for cell in cells(name):
        exec(cell, scope)
    if name == "sharpness":
        assert set(scope["surfaces"]) == {"SGD", "SAM"}
    else:
        history = getattr(scope["history"], "history", scope["history"])
        assert set(history) >= {"loss", "sharpness", "val_loss"}
    if name == "colab_tpu":
        # Not if a layer of the model forbids it, which Keras does not say: each operation is a program of its own then.
        assert scope["model"].jit_compile
        assert_moved_and_mirrored(scope["Augmented"])


def assert_moved_and_mirrored(augmented):
    """Each image is there once an epoch, a part of it with a mirrored border, turned where it says so."""
    x, y = np.arange(64 * 32 * 32 * 3, dtype="float32").reshape(64, 32, 32, 3), np.arange(64)[:, None]
    batches = augmented(x, y)
    images, labels = (np.concatenate(parts) for parts in zip(*(batches[i] for i in range(len(batches))), strict=True))
    np.testing.assert_array_equal(np.sort(labels[:, 0]), np.arange(64))
    for image, label in zip(images, labels[:, 0], strict=True):
        top, left = batches.top[label], batches.left[label]
        padded = np.pad(x[label], ((4, 4), (4, 4), (0, 0)), mode="reflect")
        part = padded[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(image, part[:, ::-1] if batches.mirrored[label] else part)
    assert {*batches.top} | {*batches.left} == {*range(9)}
    assert {*batches.mirrored} == {False, True}


@pytest.mark.parametrize(
    ("name", "message"),
    [("colab_tpu", "This runtime has no TPU.*Change runtime type"), ("finetune_efficientnet", "There is no folder")],
)
def test_the_first_cell_says_what_is_missing(name, message, alone):
    if name not in NOTEBOOKS:
        pytest.skip("of another backend")
    alone.delenv("KERAS_SAM_SMOKE", raising=False)
    with pytest.raises((RuntimeError, FileNotFoundError), match=message):
        exec(cells(name)[0], {})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_cell_says_where_keras_sam_comes_from(name, alone):
    alone.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"keras_sam is not installed.*upload the wheel"):
        exec(cells(name)[0], {})
