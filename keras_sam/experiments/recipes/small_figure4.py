"""Figures 4's and 5's question on one processor: SAM with and without the terms of second order.

Digits with 40 % wrong labels, as in small-table12 and for its reason; ρ is what small-table4 chose for the first order,
and what is below it there.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, small_table4

TITLE = "First and second order, digits with 40 % wrong labels"
CURVES = "perturbed_error", "val_accuracy", "cosine"

ROWS = {
    "noise-40": dataclasses.replace(
        small_table4.ROWS["noise-40"],
        methods={
            f"{order}-order/rho-{rho:g}": Method(SAM(rho, second_order=order == "second"))
            for rho in (0.2, 0.5)
            for order in ("first", "second")
        },
        measures=("sharpness", "cosine"),
    )
}
