"""Figure 6's question on one processor: the norm of the neighbourhood, on digits with 40 % wrong labels, by ρ.

The error on the 232 digits that are held out, for every ρ. For p = ∞ ‖ε‖₂ is ρ √d, with d = 5,018 weights.
"""

import dataclasses

from keras_sam import SAM, RandomPerturbation
from keras_sam.experiments.recipes import Method, small_table4

TITLE = "Choice of the norm, digits with 40 % wrong labels"
RHOS = {"p-2": (0.1, 0.2, 0.5, 1.0), "p-inf": (0.001, 0.002, 0.005, 0.01), "random": (0.5, 1.0, 2.5, 5.0)}
RULES = {
    "p-2": SAM,
    "p-inf": lambda rho: SAM(rho, p=float("inf")),
    "random": lambda rho: RandomPerturbation(rho, seed=0),
}

ROWS = {
    "noise-40": dataclasses.replace(
        small_table4.ROWS["noise-40"],
        held_out=0.232,
        methods={
            "sgd": Method(),
            **{f"{name}/rho-{rho:g}": Method(rule(rho)) for name, rule in RULES.items() for rho in RHOS[name]},
        },
    )
}
