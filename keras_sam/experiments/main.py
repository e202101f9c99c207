"""The entry point of `keras-sam`: says what to install where something is missing, before anything else."""

import sys

EXTRAS = 'pip install "keras-sam[tensorflow,experiments]"'


def main():
    try:
        from keras_sam.experiments.commands import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "keras_sam"):
            raise
        package = {"sklearn": "scikit-learn"}.get(package, package)
        sys.exit(f"keras-sam: the Python package `{package}` is missing. Install it with: {EXTRAS}")
    app()


if __name__ == "__main__":
    main()
