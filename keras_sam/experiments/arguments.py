"""What a user typed wrongly on the command line, said in a line."""

import contextlib
import difflib
import traceback
from pathlib import Path

import typer

import keras_sam

PACKAGE = Path(keras_sam.__file__).parent


def check_name(option, name, known):
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    check(name in known, f"{option}: received {name!r}, expected one of {', '.join(known)}{hint}")


@contextlib.contextmanager
def readable():
    """What a user can mend is said in a line, without a traceback: a `ValueError` if it is one of ours."""
    try:
        yield
    except (FileNotFoundError, ValueError, ImportError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if isinstance(error, ValueError) and not raised_in.is_relative_to(PACKAGE):
            raise
        raise typer.BadParameter(str(error)) from error


def make(output):
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"--output: received {output}, expected a folder that can be written ({error})."
        ) from error


def check(condition, message):
    if not condition:
        raise typer.BadParameter(message)
