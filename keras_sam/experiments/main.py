"""The entry point of `keras-sam`: says what to install where something is missing, before anything else."""

import os
import sys

EXTRAS = 'pip install "keras-sam[tensorflow,experiments]"'


def main():
    # TensorFlow reports on its own start otherwise, above every table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from keras_sam.experiments.commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"keras-sam: the Python package `{error.name}` is missing. Install it with: {EXTRAS}")
    app()
