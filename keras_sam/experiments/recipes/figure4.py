"""Figure 4: SAM with and without the terms of second order. Without them the test error is lower.

WRN-40-2 on CIFAR-10: the training error at w + ε̂ and the test error at w, by epoch. The paper prints curves alone. A
gradient of second order costs some four plain ones.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row

TITLE = "First and second order"
CURVES = "perturbed_error", "val_accuracy"

ROWS = {
    "wrn-40-2/cifar10": Row(
        network="wrn-40-2",
        data="cifar10",
        augmentation="basic",
        epochs=200,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods={
            "first-order": Method(SAM(0.05, m=32)),
            "second-order": Method(SAM(0.05, m=32, second_order=True)),
        },
        measures=("sharpness",),
    )
}
