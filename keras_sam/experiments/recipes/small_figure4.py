"""Figures 4's and 5's question on one processor: SAM with and without the terms of second order."""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, small_table5

TITLE = "First and second order, Fashion-MNIST, 5,000 images"

ROWS = {
    "clean": dataclasses.replace(
        small_table5.ROWS["clean/none"],
        methods={
            "first-order": Method(SAM(0.1)),
            "second-order": Method(SAM(0.1, second_order=True)),
        },
        measures=("sharpness", "cosine"),
    )
}
