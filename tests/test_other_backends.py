"""All tests that are not TensorFlow's own, on JAX and on torch, and many on TensorFlow, in processes of their own."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from conftest import APART, required

TESTS = pathlib.Path(__file__).parent
# The backend, and the files if not all.
SUITES = {"torch": ("torch", None), "jax": ("jax", None)}
SUITES |= {name: ("tensorflow", files) for name, files in APART.items()}
running = {}


def start(name):
    """Begin a suite, if its backend is installed; conftest.py does so before the first test."""
    backend, files = SUITES[name]
    if name in running or importlib.util.find_spec(backend) is None:
        return
    tests = [TESTS / f"test_{file}.py" for file in files] if files else [TESTS]
    log = pathlib.Path(tempfile.mkdtemp()) / f"{name}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *map(str, tests)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=TESTS.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)
    running[name] = process, log


def stop():
    for process, _ in running.values():
        process.kill()


@pytest.mark.parametrize("name", SUITES)
def test_the_suite_passes_on(name):
    required(SUITES[name][0])
    process, log = running[name]
    code = process.wait(timeout=1200)
    text = log.read_text()
    print(text[-6000:])
    assert code == 0, f"{name}: {text.strip().splitlines()[-1]}"
