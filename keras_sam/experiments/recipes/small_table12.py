"""Table 12's and figure 7's question on one processor: several steps of projected ascent, on digits.

40 % of the labels are wrong, and ρ is what small-table4 chose for one step. On clean Fashion-MNIST all of SAM's gain is
a point, too little to tell one number of steps from another; here it is 17.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, small_table4

TITLE = "Steps of the inner maximization, digits with 40 % wrong labels"
CURVES = ("sharpness_of_error",)

ROWS = {
    "noise-40": dataclasses.replace(
        small_table4.ROWS["noise-40"],
        methods={f"steps-{steps}": Method(SAM(0.5, ascent_steps=steps)) for steps in (1, 2, 3, 5)},
        measures=("sharpness",),
    )
}
