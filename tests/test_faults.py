"""Processes that are killed or frozen, and disks that are full: what is left, and what a restart makes of it."""

import contextlib
import os
import signal
import time

import hosts
import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

import keras_sam


def assert_equal(got, want):
    assert set(got) == set(want)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], err_msg=key)


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_after_kill_9_in_mid_epoch_or_a_full_disk_a_restart_goes_on(tmp_path):
    """One device. After batch 4 of 7 of the second epoch the last backup is that after batch 3."""
    strategy, killed, full = tf.distribute.get_strategy(), tmp_path / "killed", tmp_path / "full"
    for folder in (killed, full):
        folder.mkdir()
    # Keras keeps no seeds of dropout in the files of ModelCheckpoint.
    processes = [
        *hosts.start("faulty", killed, fault=["SIGKILL", 1, 4], dropout=0.0),
        *hosts.start("faulty", full, fault=["full disk", 1, 4]),
    ]
    want, want_without_dropout = hosts.backed_up(strategy, None), hosts.backed_up(strategy, None, dropout=0.0)
    assert hosts.code_of(processes[0]) == -signal.SIGKILL
    assert hosts.code_of(processes[1]) != 0

    assert sorted(os.listdir(killed / "backup")) == ["1-3.seeds.npz", "1-3.weights.h5"]
    assert {"1-3.seeds.npz", "1-3.weights.h5"} <= set(os.listdir(full / "backup"))
    assert_equal(hosts.backed_up(strategy, killed, dropout=0.0), want_without_dropout)
    assert_equal(hosts.backed_up(strategy, full), want)

    model = keras.models.load_model(killed / "model.keras")
    x, y = hosts.data(28)
    model.fit(x, y, batch_size=4, initial_epoch=1, epochs=3, shuffle=False, verbose=0)
    assert_equal(hosts.variables(model), want_without_dropout)


def test_after_kill_9_under_mirrored_strategy_a_restart_goes_on(mirrored, tmp_path):
    (process,) = hosts.start("faulty", tmp_path, replicas=2, fault=["SIGKILL", 1, 4])
    want = hosts.backed_up(mirrored(2), None)
    assert hosts.code_of(process) == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path / "backup")) == ["1-3.seeds.npz", "1-3.weights.h5"]
    assert_equal(hosts.backed_up(mirrored(2), tmp_path), want)


def is_frozen(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    return False


def seconds_until_the_other_ends(processes, lost):
    """From when a host is killed or frozen."""
    deadline = time.monotonic() + 120
    while processes[lost].exitcode is None and not is_frozen(processes[lost]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    begun = time.monotonic()
    try:
        assert hosts.code_of(processes[1 - lost]) != 0
        return time.monotonic() - begun
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_a_lost_host_ends_the_others_and_a_restart_of_all_goes_on(mirrored, tmp_path):
    """The second host is killed in the first epoch, the first one is frozen in the second."""
    want = hosts.backed_up(mirrored(2), None)
    for how, epoch, lost in [("SIGKILL", 0, 1), ("SIGSTOP", 1, 0)]:
        processes = hosts.start("faulty", tmp_path, hosts=2, fault=[how, epoch, 4], task=lost)
        assert seconds_until_the_other_ends(processes, lost) < 60
        log = (tmp_path / f"faulty-{1 - lost}.log").read_text()
        assert "A host was lost, or froze" in log, log[-3000:]
        assert sorted(os.listdir(tmp_path / "backup")) == [f"{epoch}-3.seeds.npz", f"{epoch}-3.weights.h5"]
    processes = hosts.start("faulty", tmp_path, hosts=2)
    assert [hosts.code_of(process) for process in processes] == [0, 0], (tmp_path / "faulty-0.log").read_text()[-3000:]
    assert_equal(dict(np.load(tmp_path / "result-0.npz")), want)
    assert not (tmp_path / "backup").exists()
    # The chief alone has written, and whole files.
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".keras") == ["model.keras"]
    assert isinstance(keras.models.load_model(tmp_path / "model.keras"), keras_sam.SAMModel)
