"""The benchmark of input pipelines end to end at a tiny size, and its arithmetic on times that are made up."""

import itertools
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import input_pipeline
import report

from keras_sam.experiments.data.augmentation import named


def test_a_round_lasts_its_time_and_the_warm_up_does_not_count():
    """Batches of 10 images take 5 seconds at first and then 2, and half of that of the processor."""
    now = [0.0]

    def batches():
        for number in itertools.count():
            now[0] += 5.0 if number < 2 else 2.0
            yield number

    clocks = lambda: now[0], lambda: now[0] / 2
    wall, cpu = input_pipeline.rates(batches(), 10, warm_up=10.0, seconds=7.0, rounds=3, clocks=clocks)
    assert wall == [5.0] * 3
    assert cpu == [10.0] * 3


def test_the_gate_is_on_the_median_round():
    pipelines = {
        "fast": input_pipeline.Pipeline("cifar10", "none", needed=100),
        "slow": input_pipeline.Pipeline("cifar10", "basic", needed=100),
        "free": input_pipeline.Pipeline("cifar10", "flip"),
    }
    measured = {"fast": ([90, 100, 110], [1, 2, 3]), "slow": ([90, 99, 400], [5, 5, 5]), "free": ([70], [35.0])}
    rows = input_pipeline.summarize(measured, pipelines)
    assert report.failures(rows) == ["slow"]
    assert rows["fast"]["images_per_second"] == 100
    assert rows["fast"]["slowest_and_fastest_round"] == [90, 110]
    assert rows["fast"]["images_per_cpu_second"] == 2
    sentence = input_pipeline.slowest(rows)
    assert "The slowest, free," in sentence
    assert "70 images per second with SAM: 0.11 V100" in sentence
    assert "18 cores for one" in sentence


def test_every_pipeline_of_the_benchmark_has_images_of_its_form():
    for data, augmentation, *_ in input_pipeline.PIPELINES.values():
        assert len(input_pipeline.data_of(data, 3).train) == 2
        assert named(augmentation)


def test_the_benchmark_runs(tmp_path, capsys):
    path = tmp_path / "results.json"
    sizes = ["--batch-size", "8", "--image-size", "32", "--num-examples", "16"]
    times = ["--warm-up", "0.01", "--seconds", "0.01", "--rounds", "2"]
    names = ["cifar basic+cutout", "imagenet"]
    assert input_pipeline.main(["--pipelines", *names, *sizes, *times, "--output", str(path)]) == 0
    results = json.loads(path.read_text())
    assert list(results["rows"]) == names
    assert results["rows"] == input_pipeline.summarize(results["rates"])
    assert results["config"]["batch_size"] == 8
    assert {"command", "versions", "machine", "commit", "cores"} <= set(results)
    printed = capsys.readouterr().out
    assert f"{results['rows']['imagenet']['images_per_second']:,.0f}" in printed
    assert "≥ 10,000" in printed
    assert "The slowest," in printed


@pytest.mark.parametrize(("rate", "code"), [(50.0, 1), (200.0, 0)])
def test_check_decides_the_exit_code(rate, code, monkeypatch):
    rows = {"cifar basic": {"ratio": 100 / rate, "limit": 1.0}}
    monkeypatch.setattr(input_pipeline, "measure", lambda *args, **kwargs: {"rows": rows})
    monkeypatch.setattr(input_pipeline, "print_results", lambda results: None)
    assert input_pipeline.main(["--check"]) == code
    assert input_pipeline.main([]) == 0
