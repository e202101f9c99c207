"""Table 9: the validation error of bootstrapped SAM by noise rate and ρ: what table 4's ρ was chosen by.

A tenth of the training set is held out with clean labels. ρ = 0 is bootstrapped SGD.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import RHOS, Method, table4

TITLE = "Validation error of bootstrapped SAM by noise rate and ρ"

# Validation error by ρ and noise rate.
PUBLISHED = {
    0: ("15.0", "31.2", "52.3", "73.5"),
    0.01: ("13.7", "28.7", "50.1", "72.9"),
    0.02: ("12.8", "27.8", "48.9", "73.1"),
    0.05: ("11.6", "25.6", "47.1", "21.0"),
    0.1: ("4.6", "6.0", "8.7", "56.1"),
    0.2: ("5.3", "7.4", "23.3", "77.1"),
    0.5: ("17.6", "40.9", "80.1", "89.9"),
}

ROWS = {
    name: dataclasses.replace(
        row,
        held_out=0.1,
        methods={f"rho-{rho:g}": Method(SAM(rho, m=32), bootstrap=True) for rho in (0, *RHOS)},
        published={f"rho-{rho:g}": {"validation_error": numbers[i]} for rho, numbers in PUBLISHED.items()},
    )
    for i, (name, row) in enumerate(table4.ROWS.items())
}
