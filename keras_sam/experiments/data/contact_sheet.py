"""A pipeline to look at: what the network sees of a few images, epoch after epoch."""

import numpy as np
from matplotlib.figure import Figure

from keras_sam.experiments.data.pipelines import evaluation, pipeline
from keras_sam.experiments.data.splits import Split, Stream


def contact_sheet(data, augmentation="none", num_images=8, num_epochs=5, **options):
    """A row of images as they are, and a row of what is made of them for each epoch, with the labels.

    Args:
        data: `Data`, whose first training images are shown.
        augmentation: As for `pipeline`, and so are the `options`. Defaults to `"none"`.
        num_images: Int. Defaults to `8`.
        num_epochs: Int. Defaults to `5`.
        **options: `seed`, `image_size` and `mixup`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    data = data._replace(train=_first(data.train, num_images), num_classes=num_images)
    originals = evaluation(data, data.train, num_images, image_size=options.get("image_size"))
    epochs = pipeline(data, num_images, augmentation, **options).take(num_epochs)
    figure = Figure(figsize=(1.4 * num_images, 1.6 * (num_epochs + 1)), layout="constrained")
    axes = figure.subplots(num_epochs + 1, num_images, squeeze=False)
    for row, (images, labels) in zip(axes, [*originals.as_numpy_iterator(), *epochs.as_numpy_iterator()]):
        order = np.argsort(labels) if labels.ndim == 1 else range(num_images)
        for cell, i in zip(row, order):
            pixels = np.clip(images[i] * data.normalization[1] + data.normalization[0], 0, 255) / 255
            cell.imshow(pixels, cmap="gray", vmin=0, vmax=1)
            cell.set_title(_title(labels[i]), fontsize=8)
            cell.axis("off")
    figure.suptitle(", ".join([augmentation, *(f"{name} {value}" for name, value in options.items())]))
    return figure


def _first(split, count):
    """The first examples, each labelled by its place."""
    if not isinstance(split, Stream):
        return Split(split.x[:count], np.arange(count))
    examples = split.examples.take(count).enumerate()
    return Stream(examples.map(lambda number, example: (example[0], number)), count)


def _title(label):
    if label.ndim == 0:
        return str(label)
    return " + ".join(f"{label[i]:.2f} × {i}" for i in np.flatnonzero(label > 0.005))
