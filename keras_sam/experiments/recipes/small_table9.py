"""Table 9's question on one processor: the validation error of bootstrapped SAM on digits, by noise rate and ρ.

232 of 1,000 digits are held out with clean labels. ρ = 0 is bootstrapped SGD.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import RHOS, Method, small_table4

TITLE = "Validation error of bootstrapped SAM on digits by noise rate and ρ"

ROWS = {
    name: dataclasses.replace(
        row, held_out=0.232, methods={f"rho-{rho:g}": Method(SAM(rho), bootstrap=True) for rho in (0, *RHOS)}
    )
    for name, row in small_table4.ROWS.items()
}
