"""Figure 7: max L(w + ε) − L(w) while training, by the number of steps of the inner maximization.

The runs of table 12, one seed: L is the error rate of the training batch, and the loss is recorded as well. The paper
prints curves alone.
"""

import dataclasses

from keras_sam.experiments.recipes import table12

TITLE = "Sharpness while training, by steps of the inner maximization"
CURVES = ("sharpness_of_error",)

ROWS = {name: dataclasses.replace(row, published={}, num_seeds=1) for name, row in table12.ROWS.items()}
