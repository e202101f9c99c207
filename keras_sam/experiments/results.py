"""Result files: never half written, and each with what it takes to make it again."""

import contextlib
import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import keras

import keras_sam

ROOT = Path(keras_sam.__file__).resolve().parents[1]


def _devices():
    if keras.backend.backend() == "torch":  # for which Keras lists none
        return [str(keras.ops.zeros(()).device)]
    return keras.distribution.list_devices()


def provenance():
    """Command, versions, machine, commit and date of this process, as a dict for JSON."""
    backend = keras.backend.backend()
    packages = {name: _version(name) for name in ("keras", "keras-cv", backend, f"{backend}-cpu", "numpy")}
    return {
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".strip(),
        "versions": {
            "python": platform.python_version(),
            "keras_sam": keras_sam.__version__,
            **{name: version for name, version in packages.items() if version},
        },
        "backend": backend,
        "devices": _devices(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "commit": COMMIT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_json(path, content):
    """Write a file whole or not at all. A number that JSON does not know, such as a diverged loss, becomes `null`."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def read_json(path):
    """What a file of `write_json` holds.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON file, or not all of one ({error}). It was written whole, so that something else has "
            "changed it: put it back from a copy, or move it away and make it again."
        ) from error


def _without_nan(content):
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path`, which takes its place if the block succeeds and vanishes if it fails."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:  # or a machine that stops could leave the name without the content
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder):
    """Remove what processes that were killed had begun to write in `replacing`, not what another one is writing."""
    for path in folder.glob(".*-*"):
        number = path.name[1:].partition("-")[0]
        if number.isdecimal() and not _is_another(int(number)):
            path.unlink(missing_ok=True)


def _is_another(process):
    """Whether it runs, and is not this one, which in a container can have the number of the one that was killed."""
    if process == os.getpid() or os.name != "posix":  # on Windows this signal would end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _program():
    """The program as one types it at the root of the project."""
    path = Path(sys.argv[0]).resolve()
    return f"python {path.relative_to(ROOT)}" if path.suffix and path.is_relative_to(ROOT) else path.name


def _processor():
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit():
    # Without the optional lock a run never disturbs a git command beside it.
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# Of the code that runs, whatever is committed while it does.
COMMIT = _commit()
