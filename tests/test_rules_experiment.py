"""The comparison of rules: how it chooses ρ, resumes and counts; its real runs are in results/."""

import gzip
import json
import time

import numpy as np
import pytest
from nets import linear_net
from rich.console import Console
from typer.testing import CliRunner

import keras_sam
from keras_sam.experiments import rules
from keras_sam.experiments.commands import app
from keras_sam.experiments.data import digits, fashion_mnist
from keras_sam.experiments.models.small_cnn import small_cnn
from keras_sam.experiments.models.small_resnet import small_resnet


@pytest.fixture
def experiment(monkeypatch):
    """Two methods on the first 64 digits, two epochs each."""

    def load(seed):
        return [digits.Split(s.x[:64], s.y[:64]) for s in digits.load(0.4, seed)]

    made = {"SGD": rules.Method(None), "SAM": rules.Method(keras_sam.SAM, (0.1, 0.2, 0.5))}
    tiny = rules.Experiment(load, linear_net, 2, made, choosing_seeds=(100,), seeds=(0, 1))
    monkeypatch.setitem(rules.EXPERIMENTS, "digits", tiny)
    return tiny


def test_a_run_writes_every_number_with_where_it_comes_from(experiment, tmp_path):
    result = CliRunner().invoke(app, ["rules", "digits", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "rules_digits.json").read_text())
    # SGD has nothing to choose; SAM a run for each ρ to choose by and two that count.
    assert len(content["runs"]) == 2 + len(content["rows"]["SAM"]["rhos"]) + 2
    assert {"command", "versions", "commit"} < set(content)
    rho = content["rows"]["SAM"]["rho"]
    counted = [content["runs"][f"SAM | rho={rho} | seed={seed}"]["test"] for seed in (0, 1)]
    assert content["rows"]["SAM"]["test"] == counted
    assert f"{rho:g}" in result.output


def scripted(monkeypatch, validation):
    """Instead of training: validation accuracy by ρ; test accuracy would choose the opposite."""
    calls = []

    def train(experiment, method, rho, seed):
        calls.append((rho, seed))
        return {"train": 1.0, "validation": validation.get(rho, 0.5), "test": 1 - validation.get(rho, 0.5)}

    monkeypatch.setattr(rules, "train", train)
    return calls


def test_validation_chooses_rho_on_seeds_that_do_not_count(experiment, monkeypatch, tmp_path):
    calls = scripted(monkeypatch, {0.1: 0.6, 0.2: 0.8, 0.5: 0.7})
    content = rules.run("digits", tmp_path, console=Console(quiet=True))
    assert content["rows"]["SAM"]["rho"] == 0.2
    assert calls == [(0.0, 0), (0.0, 1), (0.1, 100), (0.2, 100), (0.5, 100), (0.2, 0), (0.2, 1)]


@pytest.mark.parametrize(
    ("best", "more", "rho"),
    [
        (0.2, [], 0.2),
        (0.7, [1.0], 0.5),
        (1.5, [1.0, 2.0], 1.0),
        (100, [1.0, 2.0, 4.0, 8.0], 8.0),
        (0.06, [0.05, 0.025], 0.05),
        (0, [0.05, 0.025, 0.0125, 0.00625], 0.00625),
    ],
)
def test_while_the_best_rho_is_at_the_edge_one_beyond_it_is_tried(best, more, rho):
    tried = []

    def validation(rho):
        tried.append(rho)
        return -abs(rho - best)

    assert rules.choose(validation, (0.1, 0.2, 0.5)) == (rho, sorted([0.1, 0.2, 0.5, *more]))
    assert tried == [0.1, 0.2, 0.5, *more]


def test_a_single_rho_is_not_tried():
    assert rules.choose(None, (0.3,)) == (0.3, [0.3])


def test_what_is_there_is_not_trained_again(experiment, monkeypatch, tmp_path):
    calls = scripted(monkeypatch, {0.1: 0.6, 0.2: 0.8, 0.5: 0.7})
    rules.run("digits", tmp_path, only=["SGD"], console=Console(quiet=True))
    assert len(calls) == 2
    first = rules.run("digits", tmp_path, console=Console(quiet=True))
    assert len(calls) == 7
    assert rules.run("digits", tmp_path, console=Console(quiet=True)) == first
    assert len(calls) == 7


def test_runs_of_another_backend_are_not_mixed_in(experiment, monkeypatch, tmp_path):
    scripted(monkeypatch, {})
    rules.run("digits", tmp_path, only=["SGD"], console=Console(quiet=True))
    path = tmp_path / "rules_digits.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "backend": "jax"}))
    result = CliRunner().invoke(app, ["rules", "digits", "--output", str(tmp_path)], env={"COLUMNS": "500"})
    assert result.exit_code == 2
    assert "has runs of Keras's backend 'jax', and this one is 'tensorflow'" in result.output


def test_an_interrupted_command_keeps_the_runs_that_ended(experiment, monkeypatch, tmp_path):
    scripted(monkeypatch, {0.1: 0.6})
    original, ended = rules.train, []

    def train(*args):
        if len(ended) == 3:
            raise KeyboardInterrupt
        ended.append(args)
        return original(*args)

    monkeypatch.setattr(rules, "train", train)
    with pytest.raises(KeyboardInterrupt):
        rules.run("digits", tmp_path, console=Console(quiet=True))
    assert len(json.loads((tmp_path / "rules_digits.json").read_text())["runs"]) == 3


def test_two_processes_with_other_methods_lose_no_run_of_each_other(experiment, monkeypatch, tmp_path):
    calls = scripted(monkeypatch, {0.1: 0.6, 0.2: 0.8, 0.5: 0.7})
    scripted_train = rules.train

    def train(experiment, method, rho, seed):
        if not calls:  # the other process begins and ends while this one makes its first run
            calls.append(None)
            rules.run("digits", tmp_path, only=["SGD"], console=Console(quiet=True))
        return scripted_train(experiment, method, rho, seed)

    monkeypatch.setattr(rules, "train", train)
    content = rules.run("digits", tmp_path, only=["SAM"], console=Console(quiet=True))
    assert len(content["runs"]) == 2 + 3 + 2
    assert set(content["rows"]) == {"SGD", "SAM"}
    assert json.loads((tmp_path / "rules_digits.json").read_text()) == content


def test_a_row_that_another_process_has_chosen_anew_is_kept(experiment, monkeypatch, tmp_path):
    calls = scripted(monkeypatch, {0.1: 0.6, 0.2: 0.8, 0.5: 0.7})
    rules.run("digits", tmp_path, only=["SAM"], console=Console(quiet=True))
    scripted_train, path = rules.train, tmp_path / "rules_digits.json"

    def train(*args):
        if len(calls) == 5:  # while SGD trains
            content = json.loads(path.read_text())
            content["rows"]["SAM"]["rho"] = 0.1
            path.write_text(json.dumps(content))
        return scripted_train(*args)

    monkeypatch.setattr(rules, "train", train)
    content = rules.run("digits", tmp_path, only=["SGD"], console=Console(quiet=True))
    assert content["rows"]["SAM"]["rho"] == 0.1


def test_the_lead_is_paired_by_seed():
    rows = {
        "SGD, 2x epochs": {"rho": 0.0, "rhos": [0.0], "test": [0.50, 0.60, 0.70]},
        "SAM": {"rho": 0.5, "rhos": [0.1, 0.2, 0.5], "test": [0.60, 0.70, 0.80]},
    }
    table = rules.table(rows, "digits")
    cells = [list(column.cells) for column in table.columns]
    assert cells[1] == ["", "0.5*"]
    assert cells[3] == ["", "10.0 ± 0.0"]


@pytest.mark.parametrize(
    ("name", "method", "network"),
    [
        *(("digits", method, linear_net) for method in rules.EXPERIMENTS["digits"].methods),
        ("digits", "SAM", small_cnn),
        ("fashion", "SAM", small_resnet),
    ],
)
def test_every_method_trains_a_step_by_its_rule(name, method, network, monkeypatch):
    """On random images; SAM with the network of each experiment."""
    compile_, given = keras_sam.SAMModel.compile, []

    def spy(self, *args, sam="sam", **kwargs):
        given.append(sam)
        compile_(self, *args, sam=sam, **kwargs)

    monkeypatch.setattr(keras_sam.SAMModel, "compile", spy)
    experiment = rules.EXPERIMENTS[name]
    assert network in (linear_net, experiment.network)
    size = 28 if name == "fashion" else 8
    images = np.random.default_rng(0).normal(size=(32, size, size, 1)).astype("float32")
    split = digits.Split(images, np.arange(32) % 10)
    tiny = experiment._replace(load=lambda seed: (split, split, split), network=network, epochs=1)
    method = experiment.methods[method]
    numbers = rules.train(tiny, method, method.rhos[0], seed=0)
    assert all(0 <= n <= 1 for n in numbers.values())
    (rule,), expected = given, method.rule and method.rule(method.rhos[0])
    assert type(rule) is type(expected)
    if rule is not None:
        found, wanted = rule.get_config(), expected.get_config()
        assert {**found, "seed": None} == {**wanted, "seed": None}  # RandomPerturbation draws one


def test_the_controls_of_m_are_plain_keras_in_micro_batches():
    """Without BatchNormalization they are SGD; with it every micro-batch has its own statistics."""
    experiment = rules.EXPERIMENTS["m"]._replace(epochs=2)
    m = rules.SMALLER_M
    sgd, alone = (
        rules.train(experiment, experiment.methods[n], 0.0, seed=0)
        for n in ("SGD (no BN)", f"m={m} without SAM (no BN)")
    )
    for name, value in sgd.items():
        np.testing.assert_allclose(alone[name], value, atol=0.01)


def test_fashion_mnist_is_read_from_its_original_files(tmp_path):
    random = np.random.default_rng(0)
    pixels, labels = {}, {}
    for part, count in (("train", 3000), ("t10k", 50)):
        pixels[part], labels[part] = random.integers(0, 256, (count, 784), np.uint8), random.integers(0, 10, count)
        for kind, header, data in (("images-idx3", 16, pixels[part]), ("labels-idx1", 8, labels[part])):
            content = bytes(header) + data.astype(np.uint8).tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    train, validation, test = fashion_mnist.load(noise=0.25, seed=1, num_train=400, folder=tmp_path)
    order = np.random.default_rng(1).permutation(3000)
    np.testing.assert_allclose(train.x.reshape(400, 784), pixels["train"][order[:400]] / 255, rtol=1e-6)
    np.testing.assert_array_equal(validation.y, labels["train"][order[400:2400]])
    np.testing.assert_array_equal(test.y, labels["t10k"])
    assert 0.15 < (train.y != labels["train"][order[:400]]).mean() <= 0.25


def test_missing_files_are_named_at_once(tmp_path, monkeypatch):
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"`train-images-idx3-ubyte\.gz` is not in .*dataset-fashion-mnist"):
        fashion_mnist.load(folder=tmp_path)
    monkeypatch.setattr(fashion_mnist, "_read", lambda *_: fashion_mnist._bytes(tmp_path, "x.gz"))
    result = CliRunner().invoke(app, ["rules", "fashion", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "dataset-fashion-mnist" in result.output
    assert time.monotonic() - started < 5


def test_a_method_that_does_not_exist():
    result = CliRunner().invoke(app, ["rules", "digits", "--method", "SIM"])
    assert result.exit_code == 2
    assert "['SIM']" in result.output


def test_the_resnet_has_78k_parameters():
    import keras

    assert small_resnet(keras.Model, (28, 28, 1), 10).count_params() == 78042
