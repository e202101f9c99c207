"""The examples run, each on its own backend."""

import json
import pathlib
import runpy
import zipfile

import keras
import numpy as np
import pytest
from conftest import BACKEND, required

import keras_sam
from keras_sam.experiments.data.splits import Split

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def few_digits(monkeypatch, count):
    from keras_sam.experiments.data import digits

    load = digits.load
    few = lambda **options: [digits.Split(s.x[:count], s.y[:count]) for s in load(**options)]  # noqa: E731
    monkeypatch.setattr(digits, "load", few)


def test_the_custom_loop_learns_and_follows_its_rule():
    if BACKEND == "jax":
        required("optax")
    main = runpy.run_path(str(EXAMPLES / f"custom_loop_{BACKEND}.py"))["main"]
    assert main(epochs=3) > 0.85  # 0.90 to 0.93 was seen
    # So far away that no gradient tells anything about the weights: a loop that leaves ε̂ out would learn all the same.
    assert main(epochs=3, rule=keras_sam.SAM(rho=1e4)) < 0.6


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere tensors find each other")
def test_the_custom_loop_computes_where_keras_does():
    """On a device without numbers it comes as far as the accuracy."""
    main = runpy.run_path(str(EXAMPLES / "custom_loop_torch.py"))["main"]
    with keras.device("meta"), pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        main(epochs=1)


class AfterTheFirst(keras_sam.SAM):
    """Applies nothing in a step that was handed no state by the one before it."""

    slots = ("seen",)

    def descent(self, clean_gradient, gradient, step):
        (seen,) = step.state
        return [g * s for g, s in zip(gradient, seen)], ([0 * s + 1 for s in seen],)


def test_the_custom_loop_hands_on_what_a_rule_keeps():
    if BACKEND == "jax":
        required("optax")
    main = runpy.run_path(str(EXAMPLES / f"custom_loop_{BACKEND}.py"))["main"]
    assert main(epochs=3, rule=AfterTheFirst(rho=0.05)) > 0.7  # 0.83 was seen; without its state it would not train


class Biases(keras_sam.ASAM):
    """Remembers which weights it knows as biases, and how many axes each has."""

    def perturbation(self, weights, gradient, step):
        epsilon = super().perturbation(weights, gradient, step)
        paths = [v if isinstance(v, str) else v.path for v in step.variables]
        self.found = [(path.endswith(("bias", "beta")), len(w.shape)) for path, w in zip(paths, weights)]
        return epsilon


def test_the_custom_loop_says_which_weights_are_biases():
    if BACKEND == "jax":
        required("optax")
    rule = Biases(rho=0.5)
    runpy.run_path(str(EXAMPLES / f"custom_loop_{BACKEND}.py"))["main"](epochs=1, rule=rule)
    kernels_and_biases = [(False, 2), (True, 1)] * 2
    # Of BatchNormalization, which one of the loops has, gamma is scaled and beta is not.
    assert sorted(rule.found) in (sorted(kernels_and_biases), sorted([*kernels_and_biases, (False, 1), (True, 1)]))


@pytest.mark.skipif(BACKEND != "torch", reason="of torch alone")
def test_the_loop_of_several_processes_runs_in_one(capsys):
    """Two of them are held against NumPy in test_torch_distribution.py."""
    runpy.run_path(str(EXAMPLES / "custom_loop_torch_ddp.py"), run_name="__main__")
    assert float(capsys.readouterr().out.removeprefix("Test accuracy: ")) > 0.88  # 0.92 was seen


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend, and slow to compile on JAX")
@pytest.mark.usefixtures("eager_functions")
def test_keras_tuner_chooses_rho(tmp_path, monkeypatch):
    required("keras_tuner")
    few_digits(monkeypatch, 128)
    main = runpy.run_path(str(EXAMPLES / "tune_rho.py"))["main"]
    rho, accuracy = main(["--epochs", "2", "--folder", str(tmp_path)])
    trials = [json.loads(path.read_text()) for path in tmp_path.rglob("trial.json")]
    scores = {t["hyperparameters"]["values"]["rho"]: t["score"] for t in trials}
    assert set(scores) == {0.05, 0.1, 0.2, 0.5}
    assert scores[rho] == max(scores.values())
    assert 0 <= accuracy <= 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
@pytest.mark.usefixtures("eager_functions")
def test_sgd_and_sam_are_measured_side_by_side(tmp_path, monkeypatch, capsys):
    few_digits(monkeypatch, 32)
    main = runpy.run_path(str(EXAMPLES / "sharp_and_flat.py"))["main"]
    runs = main(["--seeds", "1", "--epochs", "1", "--order", "3", "--points", "2", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "sharp_and_flat.json").read_text())
    assert set(content["runs"]) == {"SGD", "SAM, ρ = 0.05", "SAM, ρ = 0.2"}
    (run,) = runs["SAM, ρ = 0.2"]
    assert run["lambda_max"] == max(run["eigenvalues"][1])
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "sharp_and_flat_spectra.png",
        "sharp_and_flat_landscapes.png",
    }
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])
    assert json.loads((tmp_path / "sharp_and_flat.json").read_text()) == content
    # Before anything is trained.
    with pytest.raises(SystemExit):
        main(["--points", "1", "--output", str(tmp_path / "other")])
    assert "--points: received 1" in capsys.readouterr().err


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
def test_the_larger_case_is_a_wide_resnet_of_halved_images(monkeypatch):
    namespace = runpy.run_path(str(EXAMPLES / "sharp_and_flat.py"))
    images = np.arange(2 * 28 * 28, dtype="float32").reshape(2, 28, 28, 1)
    halved = namespace["halved"](Split(images, np.array([0, 1])))
    assert halved.x.shape == (2, 14, 14, 1)
    assert halved.x[1, 3, 5, 0] == images[1, 6:8, 10:12, 0].mean()
    case = namespace["CASES"]["fashion"]
    model = case.network(halved.x.shape[1:])
    assert (model.count_params(), case.num_measured) == (77418, 500)
    assert not any("normalization" in layer.name for layer in model.layers)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
def test_the_larger_grid_has_three_values_of_each_and_halved_images(monkeypatch):
    namespace = runpy.run_path(str(EXAMPLES / "predict_generalization.py"))
    images = np.arange(2 * 28 * 28, dtype="float32").reshape(2, 28, 28, 1)
    parts = {256: [Split(images, np.array([0, 1]))] * 3}
    monkeypatch.setattr(namespace["fashion_mnist"], "load", lambda num_train: parts[num_train])
    load, grid, _ = namespace["CASES"]["fashion"]
    data, _ = load()
    assert data.x.shape == (2, 14, 14, 1)
    assert data.x[1, 3, 5, 0] == images[1, 6:8, 10:12, 0].mean()
    assert [len(values) for values in grid.values()] == [3, 3, 3, 3]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
@pytest.mark.usefixtures("eager_functions")
def test_m_sharpness_is_scored(tmp_path, monkeypatch):
    import keras

    namespace = runpy.run_path(str(EXAMPLES / "predict_generalization.py"))
    main = namespace["main"]
    monkeypatch.setitem(main.__globals__, "MS", (4, 8))

    def train(data, test, epochs, width, batch_size, weight_decay, learning_rate):
        """No network is trained; what it would have been is in the logits."""
        keras.utils.set_random_seed(width + batch_size)
        inputs = keras.Input((8, 8, 1))
        model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        assert (len(data.y), len(test.y), epochs) == (256, 797, 60)
        return model, 0.0, 1000 * weight_decay + width + learning_rate * batch_size

    monkeypatch.setitem(main.__globals__, "train", train)
    scores = main(["--images", "8", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "predict_generalization.json").read_text())
    assert len(content["models"]) == 16
    assert all(0 <= value <= 1 for _, values in scores.values() for value in values)
    assert (tmp_path / "predict_generalization.png").exists()
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
@pytest.mark.usefixtures("eager_functions")
def test_efficientnet_is_fine_tuned(tmp_path, monkeypatch, capsys):
    from keras_sam.experiments.data import fashion_mnist

    random = np.random.default_rng(0)
    split = Split(random.random((8, 28, 28, 1), "float32"), random.integers(0, 10, 8))
    monkeypatch.setattr(fashion_mnist, "load", lambda noise, seed, count: (split, split, split))
    main = runpy.run_path(str(EXAMPLES / "finetune_efficientnet.py"))["main"]
    arguments = ["--images", "8", "--size", "32", "--epochs", "1", "--seeds", "1", "--rho", "0.1", "0.2"]
    output = tmp_path / "new" / "folder"
    arguments += ["--output", str(output), "--noise", "0.4"]
    found = main(arguments, weights=None, width=0.25, depth=0.25)
    content = json.loads((output / "finetune_efficientnet_noise_0.4.json").read_text())
    validation = {rho: content["runs"][f"SAM, rho={rho:g} | seed=100"]["validation"] for rho in (0.1, 0.2)}
    assert list(found)[:2] == ["SGD", "SGD, 2x steps"]
    assert list(found)[2] == f"SAM, rho={max(validation, key=validation.get):g}"
    assert len(content["runs"]) == 5
    assert {key for run in content["runs"].values() for key in run} == {"training", "validation", "test", "commit"}
    # What is there is not trained again.
    assert main(arguments, weights="none of these") == found
    path = output / "finetune_efficientnet_noise_0.4.json"
    path.write_text(json.dumps({**content, "backend": "another"}))
    with pytest.raises(SystemExit):
        main(arguments, weights="none of these")
    assert "other settings or another backend" in capsys.readouterr().err


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend")
def test_images_in_a_folder_become_a_model_that_keras_loads(tmp_path):
    import keras

    main = runpy.run_path(str(EXAMPLES / "finetune_folder.py"))["main"]
    with pytest.raises(FileNotFoundError, match="has no subfolders"):
        main([str(tmp_path)])
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (32, 32, 3)).astype("uint8")
            keras.utils.save_img(tmp_path / "images" / name / f"{number}.png", pixels)
    with pytest.raises(SystemExit):
        main([str(tmp_path / "images"), "--output", str(tmp_path / "pets")])
    path = tmp_path / "models" / "pets.keras"
    options = ["--epochs", "1", "--size", "32", "--batch-size", "8", "--output", str(path)]
    history = main([str(tmp_path / "images"), *options], weights=None, width=0.25, depth=0.2)
    assert set(history) == {"accuracy", "loss", "sharpness", "val_accuracy", "val_loss"}
    assert json.loads(path.with_suffix(".json").read_text()) == ["cat", "dog"]
    loaded = keras.saving.load_model(path)
    assert loaded.output_shape == (None, 2)
    # By Keras alone: no class of ours is in it.
    assert "keras_sam" not in zipfile.ZipFile(path).read("config.json").decode()
