"""Table 12's and figure 7's question on one processor: several steps of projected ascent, on clean Fashion-MNIST."""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, small_table5

TITLE = "Steps of the inner maximization, Fashion-MNIST, 5,000 images"

ROWS = {
    "clean": dataclasses.replace(
        small_table5.ROWS["clean/none"],
        methods={f"steps-{steps}": Method(SAM(0.1, ascent_steps=steps)) for steps in (1, 2, 3, 5)},
        measures=("sharpness",),
    )
}
