"""Table 12: several steps of projected ascent. They find sharper neighbours, and hardly change the test error.

20 runs, mean ± standard deviation. The estimated sharpness is the difference of the error rate on the training batch,
in points; that of the loss is recorded as well.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, table1

TITLE = "Steps of the inner maximization"
SPREAD = "standard deviation"

# Test error and estimated sharpness by the number of steps.
PUBLISHED = {
    "cifar10": {
        1: ("2.77 ± 0.03", "0.17 ± 0.03"),
        2: ("2.76 ± 0.03", "0.82 ± 0.03"),
        3: ("2.73 ± 0.04", "1.49 ± 0.05"),
        5: ("2.77 ± 0.03", "2.26 ± 0.05"),
    },
    "cifar100": {
        1: ("16.72 ± 0.08", "0.82 ± 0.05"),
        2: ("16.59 ± 0.08", "1.83 ± 0.05"),
        3: ("16.62 ± 0.09", "2.36 ± 0.03"),
        5: ("16.60 ± 0.06", "2.82 ± 0.04"),
    },
}
RHOS = {"cifar10": 0.05, "cifar100": 0.1}

ROWS = {
    f"wrn-28-10/{data}": dataclasses.replace(
        table1.ROWS[f"wrn-28-10/basic/{data}"],
        methods={f"steps-{steps}": Method(SAM(RHOS[data], m=32, ascent_steps=steps)) for steps in numbers},
        published={
            f"steps-{steps}": {"test_error": error, "sharpness_of_error": sharpness}
            for steps, (error, sharpness) in numbers.items()
        },
        measures=("sharpness",),
        num_seeds=20,
    )
    for data, numbers in PUBLISHED.items()
}
