"""Table 5: SVHN with its extra images, and Fashion-MNIST.

"Auto augment" is SVHN's policy with Cutout for SVHN, and Cutout alone for Fashion-MNIST. The hyperparameters are table
7's; the paper does not give the epochs: WRN has 200 and Shake-Shake 1800 as on CIFAR, on SVHN a tenth, since that has
604,388 images.
"""

from keras_sam.experiments.recipes import Row, against_sgd

TITLE = "SVHN and Fashion-MNIST"
AUGMENTATIONS = {
    "svhn": {"basic": "basic", "autoaugment": "autoaugment-svhn"},
    "fashion_mnist": {"basic": "basic", "autoaugment": "basic+cutout"},
}
EPOCHS = {"wrn-28-10": 200, "shake-shake": 1800}
NETWORKS = {"wrn-28-10": "wrn-28-10", "shake-shake": "shake-shake-26-2x96d"}
LEARNING_RATES = {"svhn": 0.01, "fashion_mnist": 0.1}
RHOS = {
    ("wrn-28-10", "svhn"): 0.01,
    ("shake-shake", "svhn"): 0.01,
    ("wrn-28-10", "fashion_mnist"): 0.05,
    ("shake-shake", "fashion_mnist"): 0.02,
}

# Test error of SAM and of the baseline.
PUBLISHED = {
    "wrn-28-10/basic/svhn": ("1.42 ± 0.02", "1.58 ± 0.03"),
    "wrn-28-10/autoaugment/svhn": ("0.99 ± 0.01", "1.14 ± 0.04"),
    "wrn-28-10/basic/fashion_mnist": ("3.98 ± 0.05", "4.57 ± 0.07"),
    "wrn-28-10/autoaugment/fashion_mnist": ("3.61 ± 0.06", "3.86 ± 0.14"),
    "shake-shake/basic/svhn": ("1.44 ± 0.02", "1.58 ± 0.05"),
    "shake-shake/autoaugment/svhn": ("1.07 ± 0.02", "1.03 ± 0.02"),
    "shake-shake/basic/fashion_mnist": ("3.97 ± 0.09", "4.37 ± 0.06"),
    "shake-shake/autoaugment/fashion_mnist": ("3.59 ± 0.01", "3.76 ± 0.07"),
}


def row(name, sam, baseline):
    """The row of one network, augmentation and data set."""
    network, augmentation, data = name.split("/")
    return Row(
        network=NETWORKS[network],
        data=data,
        augmentation=AUGMENTATIONS[data][augmentation],
        epochs=EPOCHS[network] // (10 if data == "svhn" else 1),
        learning_rate=LEARNING_RATES[data],
        weight_decay=0.0005,
        methods=against_sgd(RHOS[network, data]),
        published={"sam": {"test_error": sam}, "sgd": {"test_error": baseline}},
    )


ROWS = {name: row(name, *numbers) for name, numbers in PUBLISHED.items()}
