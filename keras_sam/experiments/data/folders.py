"""Data sets as folders of image files: `train/CLASS/IMAGE` and `test/CLASS/IMAGE`, in JPEG, PNG, GIF or BMP."""

from pathlib import Path

import numpy as np

from keras_sam.experiments.data.splits import Split

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}


def splits(folder, name):
    """Training and test set as `Split`s of paths and of labels, the places of the classes in alphabetical order.

    Args:
        folder: Where the folders `train` and `test` are.
        name: What the set is called in messages.

    Returns:
        Two `Split`s and the number of classes.

    Raises:
        FileNotFoundError: If a folder is missing, or has no images.
        ValueError: If the classes of the test set are not those of the training set.
    """
    train, test = (_classes(Path(folder), part, name) for part in ("train", "test"))
    different = sorted(set(train) ^ set(test))
    if different:
        raise ValueError(
            f"The classes in {folder}/train and {folder}/test differ: {', '.join(different[:5])} "
            f"{'are' if len(different) > 1 else 'is'} in one of them alone. Is the copy of {name} complete?"
        )
    return _split(train), _split(test), len(train)


def _classes(folder, part, name):
    """The image files of each class."""
    classes = {}
    if (folder / part).is_dir():
        for path in sorted(p for p in (folder / part).iterdir() if p.is_dir()):
            classes[path.name] = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    empty = [label for label, files in classes.items() if not files]
    if not classes or empty:
        found = f"no image is in {folder / part / empty[0]}" if empty else f"there is no image in {folder / part}"
        raise FileNotFoundError(
            f"{name} is read from a folder of images, but {found}. Put them into {folder} as train/CLASS/IMAGE.jpg "
            "and test/CLASS/IMAGE.jpg, a folder for each class, or give another folder."
        )
    return classes


def _split(classes):
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    return Split(np.array([path for files in classes.values() for path in files]), labels)
