"""Two processes of jax.distributed, and faults: the same numbers, errors that say so, files written once."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax_worker
import pytest

WORKER = pathlib.Path(jax_worker.__file__)
# In seconds; a survivor finds out after two or three heartbeats.
LIMIT = 60


def start(output, **arguments):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1" if "port" in arguments else "4"}
    command = [sys.executable, str(WORKER), json.dumps(arguments)]
    with output.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def pair(folder, numbers=(None, None), **arguments):
    """Two processes, the signals that they send themselves, and where each writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [folder / f"{i}.txt" for i in range(2)]
    options = {"port": port, "folder": str(folder / "backup"), **arguments}
    processes = [start(o, process=i, number=n, **options) for i, (o, n) in enumerate(zip(outputs, numbers))]
    return processes, outputs


def seconds_of_survivor(folder, number):
    """How long the first process lives on after the second one has got a signal, and what it says then."""
    (survivor, victim), outputs = pair(folder, (None, number), task="interrupted")
    try:
        while not list((folder / "backup").glob("*.weights.h5")):
            assert survivor.poll() is None, outputs[0].read_text()
            time.sleep(0.1)
        begun = time.monotonic()
        code = survivor.wait(timeout=LIMIT + 30)
        return time.monotonic() - begun, code, outputs[0].read_text()
    finally:
        for process in (survivor, victim):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Both faults at once, since all that they do is to wait."""
    from concurrent.futures import ThreadPoolExecutor

    folders = {n: tmp_path_factory.mktemp(n.name) for n in (signal.SIGKILL, signal.SIGSTOP)}
    with ThreadPoolExecutor() as pool:
        futures = {n: pool.submit(seconds_of_survivor, folder, n) for n, folder in folders.items()}
    return {n: (folders[n], *future.result()) for n, future in futures.items()}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda n: n.name)
def test_a_process_that_loses_the_other_ends_with_an_error_that_says_so(faults, number):
    _, seconds, code, said = faults[number]
    assert code != 0
    assert seconds < LIMIT
    assert "another task died" in said
    assert "RESULT" not in said


@pytest.fixture(scope="module")
def restarted(faults):
    """What both processes say after they were started again in the folder of the one that was killed."""
    folder = faults[signal.SIGKILL][0]
    processes, outputs = pair(folder, task="resumed")
    for process, output in zip(processes, outputs):
        assert process.wait(timeout=120) == 0, output.read_text()
    lines = [next(line for line in o.read_text().splitlines() if line.startswith("RESULT")) for o in outputs]
    return [json.loads(line.removeprefix("RESULT")) for line in lines]


def test_all_started_again_end_as_if_they_had_never_been_cut(restarted):
    """To the bit, the rule's state included, on both processes."""
    first, second = (said["resumed"] for said in restarted)
    assert first["taken up"] == first["uncut"] == second["taken up"] == second["uncut"]


def test_two_processes_have_an_epsilon_each(restarted):
    for said in restarted:
        assert said["agreement"]["error"] < 5e-7


def test_processes_that_disagree_are_stopped_before_the_first_step(restarted):
    for i, said in enumerate(restarted):
        message, of_seeds = said["agreement"]["messages"]
        assert message.startswith("The processes [1] train `functional")
        assert f"value of the rule (`sam=…`) than process 0; this is process {i} of 2, where it is {{" in message
        assert f"'rho': {[0.2, 0.1][i]}" in message
        # JAX's own, while the model is made.
        assert "passed to device_put is not the same on each process" in of_seeds


def test_the_first_process_writes_for_all_and_deletes_what_it_wrote(faults, restarted):
    folder = faults[signal.SIGKILL][0]
    assert sorted(path.name for path in folder.glob("backup*")) == ["backup"]
    files = sorted(path.name for path in (folder / "backup").iterdir() if path.is_file())
    assert files == ["3-0.seeds.npz", "3-0.weights.h5"]
    files = [said["agreement"]["files"] for said in restarted]
    assert files == [["model.keras", "model.weights.h5"], []]


def test_one_process_killed_and_started_again_ends_as_if_it_had_never_been(tmp_path):
    folder, output = tmp_path / "backup", tmp_path / "output.txt"
    process = start(output, task="interrupted", folder=str(folder), number=signal.SIGKILL)
    assert process.wait(timeout=120) == -signal.SIGKILL, output.read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["1-3.seeds.npz", "1-3.weights.h5"]
    result = jax_worker.resumed(folder)
    assert result["taken up"] == result["uncut"]
