"""Figure 6: the norm of the neighbourhood. p = 2 is better than p = ∞, and any is better than a random direction.

A WRN on CIFAR-10. ρ is in the units of its norm, so each has a grid of its own: ‖ε‖₂ of p = ∞ is ρ √d for d weights.
The paper prints curves alone.
"""

import dataclasses

from keras_sam import SAM, RandomPerturbation
from keras_sam.experiments.recipes import RHOS, Method, table1

TITLE = "Choice of the norm"
RHOS_OF_INFINITY = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5)

ROWS = {
    "wrn-28-10/cifar10": dataclasses.replace(
        table1.ROWS["wrn-28-10/basic/cifar10"],
        methods={
            "sgd": Method(),
            **{f"p-2/rho-{rho:g}": Method(SAM(rho, m=32)) for rho in RHOS},
            **{f"p-inf/rho-{rho:g}": Method(SAM(rho, p=float("inf"), m=32)) for rho in RHOS_OF_INFINITY},
            **{f"random/rho-{rho:g}": Method(RandomPerturbation(rho, m=32, seed=0)) for rho in RHOS},
        },
        published={},
    )
}
