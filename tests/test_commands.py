"""The command line: what it shows, and what it says of input that cannot be."""

import os
import re
import socket

import pytest
from conftest import required
from typer.testing import CliRunner

from keras_sam.experiments import commands, recipes, runner

ROW = "wrn-28-10/basic/fashion_mnist"


def invoke(*arguments, width="200"):
    done = CliRunner().invoke(commands.app, arguments, env={"COLUMNS": width, "TERMINAL_WIDTH": width})
    # In one line, without the frame.
    return done.exit_code, re.sub(r"[\s│]+", " ", done.output)


def test_the_tables_and_the_rows_of_one():
    code, text = invoke("list")
    assert code == 0
    assert all(name in text for name in recipes.NAMES)
    code, text = invoke("list", "table5")
    assert code == 0
    assert f"{ROW} sam sgd sgd-2x 200 epochs, batch 256, learning rate 0.1, weight decay 0.0005 sam 3.98 ± 0.05" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "tabel5", "--row", ROW], "TABLE: received 'tabel5', expected one of table1,"),
        (["run", "tabel5", "--row", ROW], "did you mean 'table5'?"),
        (["list", "table7"], "TABLE: received 'table7'"),
        (["run", "table5", "--row", "wrn/basic/fashion"], f"did you mean '{ROW}'?"),
        (["run", "table5", "--row", ROW, "--method", "sdg"], "expected one of sam, sgd, sgd-2x; did you mean 'sgd'?"),
        (["run", "table5", "--row", ROW, "--strategy", "miror"], "'mirrored'"),
        (["run", "table5", "--row", ROW, "--method", "sgd", "--rho", "0.1"], "the method 'sgd' has no ρ"),
        (["run", "table5", "--row", ROW, "--weights", "w.h5"], "which only rows that fine-tune read"),
        (["run", "table3", "--row", "efficientnet-b7/cifar10", "--weights", "w.h5", "--smoke"], "without --smoke"),
        (["run", "table5", "--row", ROW, "--held-out", "1.5"], "--held-out: received 1.5, expected a share in (0, 1)."),
        (["run", "table5", "--row", ROW, "--seed", "-1"], "--seed: received -1, expected a number of at least 0."),
        (["grid", "table5", "--row", "wrn"], "--row: received 'wrn'"),
        (["grid", "table4", "--tune", "roh"], "'rho'"),
        (["report", "--output", "no-such-folder"], "expected a folder of results"),
        (["compare", "no-folder", "none"], "expected folders of `seed-*.json` that have a seed in common"),
        (["demo", "--noise", "1.5"], "expected a share in [0, 1]"),
    ],
)
def test_what_cannot_be_is_said(arguments, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, text = invoke(*arguments)
    assert code == 2
    assert said in text
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_answer_is_named(tmp_path):
    required("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ["grid", "table5", "--row", ROW, "--method", "sgd", "--seeds", "1", "--smoke", "--ray", address]
    code, text = invoke(*arguments, "--output", str(tmp_path))
    assert code == 2
    assert f"Received `--ray {address}`, where nothing answers" in text


@pytest.mark.parametrize("command", ["run", "grid", "report", "compare"])
def test_a_damaged_result_is_named(command, tmp_path):
    run = runner.Run(table="table5", row=ROW, method="sgd")
    path = run.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('{"settings": {')
    code, text = invoke(
        *{
            "run": ["run", "table5", "--row", ROW, "--method", "sgd", "--output", str(tmp_path)],
            "grid": ["grid", "table5", "--row", ROW, "--method", "sgd", "--output", str(tmp_path)],
            "report": ["report", "--output", str(tmp_path)],
            "compare": ["compare", str(path.parent), str(path.parent)],
        }[command]
    )
    assert code == 2
    assert f"{path} is no JSON file, or not all of one (Expecting property name" in text
    assert path.read_text() == '{"settings": {'


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    code, text = invoke("run", "table5", "--row", ROW, "--output", str(tmp_path / "file" / "out"))
    assert code == 2
    assert "expected a folder that can be written" in text


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run", lambda *args: int("three"))
    result = CliRunner().invoke(commands.app, ["run", "table5", "--row", ROW, "--output", str(tmp_path)])
    assert isinstance(result.exception, ValueError)


def test_missing_data_are_said_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    code, text = invoke("run", "table1", "--row", "wrn-28-10/basic/cifar10", "--output", str(tmp_path / "out"))
    assert code == 2
    assert "cifar10" in text
    assert "download" in text
    assert "Traceback" not in text


def test_a_result_is_shown_beside_the_paper(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run", lambda *args: {"result": {"test_error": 0.04}})
    code, text = invoke("run", "table5", "--row", ROW, "--output", str(tmp_path))
    assert code == 0
    assert "test error (%) 4.00 3.98 ± 0.05" in text
    assert os.path.join("table5", ROW, "sam", "seed-0.json") in text.replace(" ", "")


def test_what_a_failed_run_said_is_shown_as_it_is(monkeypatch, tmp_path):
    """Brackets are no style."""
    said = "install keras-sam[tensorflow] on [/job:localhost/device:GPU:0]"
    monkeypatch.setattr(commands.grid_of_runs, "execute", lambda runs, *args, **options: {runs[0]: said})
    code, text = invoke("grid", "table5", "--row", ROW, "--method", "sgd", "--output", str(tmp_path))
    assert code == 1
    assert said in text
