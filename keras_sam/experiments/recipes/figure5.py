"""Figure 5: the cosine of the angle between the updates of first and second order, along both trainings of figure 4.

Close to 1 until the network nears convergence. The paper prints curves alone.
"""

import dataclasses

from keras_sam.experiments.recipes import figure4

TITLE = "Cosine similarity of the updates of first and second order"
CURVES = ("cosine",)

ROWS = {name: dataclasses.replace(row, measures=("cosine",)) for name, row in figure4.ROWS.items()}
