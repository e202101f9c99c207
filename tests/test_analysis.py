"""`keras-sam sharpness` from the command line."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from typer.testing import CliRunner

from keras_sam import sharpness
from keras_sam.experiments import analysis
from keras_sam.experiments.commands import app
from keras_sam.experiments.data import load


@pytest.fixture
def model(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = layers.AveragePooling2D(4)(inputs)
    net = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    net.save(tmp_path / "net.keras")
    return net


def invoke(*arguments):
    return CliRunner().invoke(app, ["sharpness", *map(str, arguments)])


SMALL = "--num-examples", 64, "--order", 4, "--points", 3, "--batch-size", 32, "--rho", 0.1, "--rho", 0.2, "--k", 5


@pytest.mark.usefixtures("eager_functions")
def test_the_numbers_and_the_pictures(model, tmp_path):
    result = invoke(tmp_path / "net.keras", "digits", "--output", tmp_path / "out", *SMALL)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "net_digits.json").read_text())
    data = load("digits")
    mean, deviation = data.normalization
    x = (data.train.x[:64] - np.float32(mean)) / np.float32(deviation)
    loss, accuracy = model.evaluate(x.astype("float32"), data.train.y[:64], verbose=0)
    assert content["loss"] == pytest.approx(loss, rel=1e-5)
    assert content["error"] == pytest.approx(1 - accuracy, abs=1e-6)
    assert content["num_examples"] == 64
    assert len(content["eigenvalues"]) == 5
    assert content["rho"] == [0.1, 0.2]
    given = (x.astype("float32"), data.train.y[:64])
    rise = sharpness.sharpness(model, given, [0.1, 0.2], verbose=0)
    np.testing.assert_allclose(content["sharpness_of_loss"], rise.loss, rtol=1e-3)
    np.testing.assert_allclose(content["sharpness_of_error"], rise.error, atol=1e-6)
    trace = sharpness.hessian_trace(model, given, verbose=0)
    assert content["trace"]["value"] == pytest.approx(trace.value, rel=1e-4)
    norm = np.sqrt(sum(np.sum(w**2) for w in model.get_weights()))
    bound = sharpness.pac_bayes_bound(
        content["error"] + max(0, rise.error[0]), norm, 50, 64, 0.1, 0.05 / len(content["rho"])
    )
    assert content["pac_bayes_bound_of_error"][0] == pytest.approx(bound, rel=1e-5)
    assert f"{content['eigenvalues'][0]:.4g}" in result.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "net_digits.json",
        "net_digits_spectrum.png",
        "net_digits_landscape.png",
        "net_digits_by_rho.png",
    }


@pytest.mark.parametrize(("scale", "highest"), [("pixels", 255), ("unit", 1)])
def test_what_the_model_was_fed(model, scale, highest):
    data = analysis.examples(model, "digits", "test", 50, scale, 20)
    batches = list(data.as_numpy_iterator())
    assert [len(x) for x, _ in batches] == [20, 20, 10]
    assert max(x.max() for x, _ in batches) == highest
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), load("digits").test.y[:50])


def test_labels_are_as_the_loss_wants_them(model):
    model.compile(loss="categorical_crossentropy")
    ((_, y),) = analysis.examples(model, "digits", "train", 5, "unit", 5).as_numpy_iterator()
    assert y.shape == (5, 10)


@pytest.mark.parametrize(("outputs", "loss"), [(1, "mse"), (10, "mse"), (1, "binary_crossentropy")])
def test_models_of_other_tasks_are_refused(model, outputs, loss):
    net = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(outputs)])
    net.compile(loss=loss)
    with pytest.raises(ValueError, match="expected a classifier"):
        analysis.examples(net, "digits", "train", 5, "unit", 5)


def test_more_eigenvalues_than_weights_are_refused_before_anything_is_measured(model, monkeypatch):
    monkeypatch.setattr(analysis.sharpness, "sharpness", lambda *_, **__: pytest.fail("measured before the check"))
    data = analysis.examples(model, "digits", "train", 8, "unit", 4)
    with pytest.raises(ValueError, match="Received `k=100000`"):
        analysis.run(model, data, rho=(0.1,), m=None, k=100_000, order=4, points=3, seed=0, verbose=0)


def test_bad_input_says_what_to_do(model, tmp_path):
    model.save_weights(tmp_path / "net.weights.h5")
    uncompiled = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    (tmp_path / "damaged.keras").write_bytes(b"half of a model")
    uncompiled.save(tmp_path / "uncompiled.keras")
    for file, dataset, message in [
        ("none.keras", "digits", "no file"),
        ("net.weights.h5", "digits", "ends in .keras"),
        ("uncompiled.keras", "digits", "not compiled"),
        ("net.keras", "digit", "Did you mean 'digits'"),
        ("damaged.keras", "digits", "Keras cannot load"),
        ("net.keras", "cifar100", "to its 100 classes"),
    ]:
        if dataset == "cifar100":
            with pytest.raises(ValueError, match=message):
                analysis.examples(model, dataset, "train", 5, "unit", 5, stand_in=True)
            continue
        result = invoke(tmp_path / file, dataset, "--output", tmp_path / "out", *SMALL)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
    assert not list((tmp_path / "out").iterdir())
