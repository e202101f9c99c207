"""Table 11: table 3's fine-tuning of EfficientNet-B7 with ρ = 0.05 for all sets. The baselines are table 3's."""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, table3

TITLE = "Fine-tuning EfficientNet-B7, ρ = 0.05 for all"

# Test error with ρ = 0.05, with the best ρ, and without SAM.
PUBLISHED = {
    "fgvc_aircraft": ("7.06", "6.80", "8.15"),
    "oxford_flowers102": ("0.81", "0.63", "1.16"),
    "oxford_iiit_pet": ("4.15", "3.97", "4.24"),
    "cars196": ("5.57", "5.18", "5.94"),
    "cifar10": ("0.88", "0.88", "0.95"),
    "cifar100": ("7.56", "7.44", "7.68"),
    "birdsnap": ("13.64", "13.64", "14.30"),
    "food101": ("7.06", "7.02", "7.17"),
}

ROWS = {
    f"efficientnet-b7/{data}": dataclasses.replace(
        table3.ROWS[f"efficientnet-b7/{data}"],
        methods={"sam": Method(SAM(0.05, m=16))},
        published={
            name: {"test_error": number} for name, number in zip(("sam", "sam-best-rho", "sgd"), numbers, strict=True)
        },
    )
    for data, numbers in PUBLISHED.items()
}
