"""MultiWorkerMirroredStrategy: two processes on this machine, as one process with two replicas."""

import json

import hosts
import keras
import numpy as np
import pytest

# BatchNormalization's statistics, of which every host has its own, as every replica has.
STATISTICS = ("4", "5")


def ended(processes):
    try:
        return [hosts.code_of(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.filterwarnings("ignore:The first batch leaves")
def test_two_hosts_are_two_replicas_to_the_bit(mirrored, tmp_path):
    """With a stateful rule, an idle host, steps_per_execution and validation; `sam=None` is plain Keras on replicas."""
    processes = hosts.start("training", tmp_path, hosts=2)
    wanted = {
        "friendly": hosts.fitted(mirrored(2), **hosts.TRAININGS["friendly"]),
        "none": hosts.fitted(mirrored(2), keras.Model, rows=26),
    }
    codes = ended(processes)
    assert codes == [0, 0], (tmp_path / "training-0.log").read_text()[-3000:]
    for name, want in wanted.items():
        for task in (0, 1):
            got = np.load(tmp_path / f"{name}-{task}.npz")
            assert set(got.files) == set(want)
            assert {"val_loss", "val_mae"} < set(want)
            for key in want:
                if task == 0 or key not in STATISTICS:
                    np.testing.assert_array_equal(got[key], want[key], err_msg=f"{name}, task {task}, {key}")


def test_hosts_that_disagree_are_told_before_the_first_step(tmp_path):
    codes = ended(hosts.start("disagreeing", tmp_path, hosts=2))
    assert codes == [0, 0], (tmp_path / "disagreeing-0.log").read_text()[-3000:]
    for task, rho in enumerate(["0.1", "0.2"]):
        said = json.loads((tmp_path / f"said-{task}.json").read_text())
        assert "disagree on the rule (`sam=…`)" in said["rule"]
        assert f"on the host of task {task} it is" in said["rule"]
        assert f"'rho': {rho}" in said["rule"]
        assert f"disagree on the seed; on the host of task {task} it is {task}." in said["seed"]
        assert "disagree on the initial weights" in said["weights"]
        assert "No seed was set" in said["unseeded"]
