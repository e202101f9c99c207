"""Grids: what they hold, that a command line makes each run, and that a cluster may lose a node."""

import dataclasses
import json
import os
import subprocess
import threading
import time

import pytest
from conftest import required
from rich.console import Console
from typer.testing import CliRunner

from keras_sam.experiments import commands, grid, recipes, runner
from keras_sam.experiments.runner import Run

ROW = "wrn-28-10/basic/fashion_mnist"


def test_a_table_is_all_rows_methods_and_seeds():
    runs = grid.expand("table5")
    assert len(runs) == len(set(runs)) == 8 * 3 * 5
    assert len(grid.expand("table12")) == 2 * 4 * 20
    assert grid.expand("table5", [ROW], ["sam"], 2, precision="mixed_bfloat16") == [
        Run(table="table5", row=ROW, method="sam", seed=seed, precision="mixed_bfloat16") for seed in (0, 1)
    ]


def test_rows_without_a_method_are_left_out():
    """All images have no row for m = 32, and SGD has no ρ."""
    runs = grid.expand("small-table5", methods=["sam", "sam-m-32", "sgd"], seeds=1, tune="rho")
    known = recipes.module("small-table5").ROWS
    assert {(run.row, run.method) for run in runs} == {
        (name, method) for name, row in known.items() for method in ("sam", "sam-m-32") if method in row.methods
    }
    assert len({run.row for run in runs}) == len(known)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ("small-figure4", {"tune": "lr-wd"}),
        ("small-table5", {"rows": ["60000/none"], "methods": ["sam-m-32"], "tuned": "none"}),
        ("small-table5", {"methods": ["sgd", "m-32-control"], "tune": "rho"}),
    ],
)
def test_a_grid_of_nothing_is_refused(table, options):
    with pytest.raises(ValueError, match=f"No row of {table} has a method to train"):
        grid.expand(table, **options)


def test_rho_is_chosen_on_a_tenth_of_the_training_set():
    runs = grid.expand("table5", [ROW], seeds=1, tune="rho")
    assert [run.rho for run in runs] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    assert {(run.method, run.held_out) for run in runs} == {("sam", 0.1)}
    assert len({run.path("results") for run in runs}) == 6


def test_a_method_that_is_about_one_rho_is_not_tuned_by_itself():
    with pytest.raises(ValueError, match="has a method to train"):
        grid.expand("table9", tune="rho")


def test_what_was_tuned_is_taken_up_with_seeds_that_are_fresh(tmp_path):
    row, rhos = "clean/basic", (0.02, 0.05, 0.1, 0.2)
    tuning = grid.expand("small-table5", [row], ["sam"], 2, tune="rho")
    assert [(run.seed, run.rho) for run in tuning] == [(seed, rho) for seed in (100, 101) for rho in rhos]
    # The second seed turns the order of the first around.
    errors = {
        (100, 0.02): 0.30,
        (100, 0.05): 0.20,
        (100, 0.1): 0.18,
        (100, 0.2): 0.19,
        (101, 0.02): 0.30,
        (101, 0.05): 0.20,
        (101, 0.1): 0.25,
        (101, 0.2): 0.2,
    }
    for number, run in enumerate(tuning):
        path = run.path(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"result": {"validation_error": errors[run.seed, run.rho]}}))
        if number == len(tuning) - 2:
            said = rf"found \[2, 2, 2, 1\].*--method sam --tune rho --seeds 3 --output {tmp_path}"
            with pytest.raises(ValueError, match=said):
                grid.expand("small-table5", [row], ["sam"], tuned=tmp_path)
    # A method that is about one ρ keeps it, and so does one with a schedule.
    found = grid.expand("small-table5", [row], ["sam", "rho-0.05", "m-32-control", "sgd"], tuned=tmp_path)
    assert [(run.method, run.seed, run.rho, run.held_out) for run in found] == [
        *(("sam", seed, 0.2, None) for seed in range(5)),
        *(("rho-0.05", seed, None, None) for seed in range(5)),
        *(("m-32-control", seed, None, None) for seed in range(5)),
        *(("sgd", seed, None, None) for seed in range(5)),
    ]
    with pytest.raises(ValueError, match=r"sam-m-32 for small-table5 clean/basic is not tuned"):
        grid.expand("small-table5", [row], ["sam-m-32"], tuned=tmp_path)
    # Without names all but those for which nothing was found.
    everything = grid.expand("small-table5", [row], seeds=1, tuned=tmp_path)
    methods = ["sam", "m-32-control", "rho-0.05", "sgd-half", "sgd", "sgd-2x", "sgd-stopped"]
    assert [(run.method, run.rho) for run in everything] == [(m, 0.2 if m == "sam" else None) for m in methods]
    with pytest.raises(ValueError, match=r"sam for small-table5 noise-40/none is not tuned"):
        grid.expand("small-table5", ["noise-40/none"], tuned=tmp_path)


def write(output, run, **settings):
    path = run.path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": {**runner.settings_of(run), **settings}}))


def test_results_that_are_there_are_said_to_be(tmp_path, capsys):
    (run,) = grid.expand("small-table5", ["clean/none"], ["sgd"], seeds=1)
    write(tmp_path, run)
    assert grid.execute([run], tmp_path, console=Console(width=200)) == {}
    assert "1 of 1 results are in" in capsys.readouterr().out


def test_learning_rate_and_weight_decay_are_chosen_without_sam():
    runs = grid.expand("table5", [ROW], seeds=1, tune="lr-wd")
    assert {run.method for run in runs} == {"sgd"}
    assert len({(run.learning_rate, run.weight_decay) for run in runs}) == 12

    runs = grid.expand("small-table5", ["noise-40-decay/none"], seeds=1, tune="lr-wd")
    assert [(run.learning_rate, run.weight_decay) for run in runs] == [
        (0.1, decay) for decay in (0.0005, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
    ]


@pytest.mark.parametrize(
    "run",
    [
        Run(table="table5", row=ROW, method="sgd-2x"),
        Run(table="table4", row="noise-40", method="sam", seed=3, rho=0.2, held_out=0.1, smoke=True),
        Run(table="table5", row=ROW, method="sgd", learning_rate=0.05, weight_decay=1e-5, precision="mixed_float16"),
        Run(table="table1", row="wrn-28-10/basic/cifar10", method="sam", strategy="mirrored"),
    ],
)
def test_the_command_line_of_a_run_makes_that_run(run, monkeypatch, tmp_path):
    made = []

    def record(*args):
        made.append(args)
        return {"result": {"test_error": 0.5}}

    monkeypatch.setattr(runner, "run", record)
    arguments = grid.command(run, tmp_path / "out", data_dir=tmp_path / "data", download=True)
    done = CliRunner().invoke(commands.app, arguments[3:])
    assert done.exit_code == 0, done.output
    assert made == [(run, tmp_path / "out", tmp_path / "data", True)]


def test_a_process_runs_the_command_line(tmp_path):
    run = Run(table="table5", row=ROW, method="sam", rho=-1)
    done = subprocess.run(grid.command(run, tmp_path), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--rho" in done.stderr


def test_results_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    runs = grid.expand("table5", [ROW], ["sam"], 3)
    # As of a later commit, whose recipes have a field more.
    write(tmp_path, runs[1], new_field=1)
    seen = []
    monkeypatch.setattr(grid, "_here", lambda commands, output, workers: seen.extend(commands) or [])
    assert grid.execute(runs, tmp_path) == {}
    assert seen == [runs[0], runs[2]]


def test_results_of_other_settings_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    runs = grid.expand("table5", [ROW], ["sam"], 3)
    write(tmp_path / "precision", runs[2])
    write(tmp_path / "backend", runs[2], backend="numpy")
    monkeypatch.setattr(grid, "_here", None)
    monkeypatch.setattr(grid, "on_ray", None)
    others = [dataclasses.replace(run, precision="mixed_bfloat16") for run in runs]
    for ray in (None, "auto"):
        with pytest.raises(ValueError, match=r"seed-2.json .*run.precision: 'float32' there, 'mixed_bfloat16' here"):
            grid.execute(others, tmp_path / "precision", ray=ray)
        with pytest.raises(ValueError, match=r"backend: 'numpy' there.*Give another `--output`"):
            grid.execute(runs, tmp_path / "backend", ray=ray)


def test_a_run_that_fails_leaves_the_others_be(tmp_path, monkeypatch):
    runs = grid.expand("table5", [ROW], ["sam"], 2)
    fails = ["sh", "-c", "echo no data >&2; exit 3"]

    def command(run, output):
        path = run.path(output)
        return fails if run.seed == 0 else ["sh", "-c", f"mkdir -p {path.parent} && echo '{{}}' > {path}"]

    monkeypatch.setattr(grid, "command", command)
    assert grid.execute(runs, tmp_path, workers=2) == {runs[0]: "no data"}
    assert not runs[0].path(tmp_path).exists()
    assert runs[1].path(tmp_path).read_text() == "{}\n"


def test_an_interrupted_grid_begins_no_other_run(tmp_path, monkeypatch):
    runs = grid.expand("table5", [ROW], ["sam"], 4)
    begun = tmp_path / "begun"
    monkeypatch.setattr(
        grid, "command", lambda run, output: ["sh", "-c", f"echo {run.seed} >> {begun}; sleep 0.5; exit 1"]
    )

    class Interrupted(Console):
        def print(self, *args, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.execute(runs, tmp_path, console=Interrupted())
    time.sleep(2)
    # The second may have begun while the first one was read.
    assert begun.read_text() in ("0\n", "0\n1\n")


def test_a_lost_node_of_a_ray_cluster_loses_no_run(tmp_path):
    required("ray")
    from ray.cluster_utils import Cluster

    started, ended = tmp_path / "started", tmp_path / "ended"
    started.mkdir()
    ended.mkdir()

    def train(number):
        node = os.environ.get("RAY_NODE", "")
        (started / f"{number}-{os.getpid()}").write_text(node)
        time.sleep(1.5)
        (ended / f"{number}-{os.getpid()}").touch()
        if number == 5:
            raise ValueError("a run that fails is not tried again")
        return number * number

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=2, env_vars={"RAY_NODE": "lost"})

        def lose():
            while not any(path.read_text() for path in started.iterdir()):
                time.sleep(0.1)
            cluster.remove_node(lost, allow_graceful=False)

        thread = threading.Thread(target=lose)
        thread.start()
        finished = list(grid.on_ray(range(6), train, cluster.address))
        thread.join()
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
    results = {run: result for run, result, _ in finished}
    assert len(finished) == 6
    assert results == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16, 5: None}
    failures = {run: error for run, _, error in finished if error}
    assert list(failures) == [5]
    assert "a run that fails is not tried again" in failures[5]
    # Those of the lost node began twice, and every run ended once.
    assert len(list(started.iterdir())) > 6
    assert sorted(path.name.partition("-")[0] for path in ended.iterdir()) == list("012345")
