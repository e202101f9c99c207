"""Table 4: CIFAR-10 with wrong labels. SAM alone is as good as what was made for the task.

ResNet-32 for 200 epochs, a share of the training labels drawn anew. ρ is 0.1, at 80 % noise 0.05. "Bootstrap" trains
again from scratch on the labels that the first model predicts. Of Mixup's four α the best counts, as in the paper. The
paper does not give this net's learning rate and weight decay: those are its WRN's.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row

TITLE = "CIFAR-10 with wrong labels"
NOISE = (0.2, 0.4, 0.6, 0.8)
ALPHAS = (1, 8, 16, 32)

# Test accuracy by noise rate.
PUBLISHED = {
    "sgd": ("84.8", "68.8", "48.2", "26.2"),
    "mixup": ("93.0", "90.0", "83.8", "70.2"),
    "bootstrap-mixup": ("93.3", "92.0", "87.6", "72.0"),
    "sam": ("95.1", "93.4", "90.5", "77.9"),
    "bootstrap-sam": ("95.4", "94.2", "91.8", "79.9"),
}


def methods(rho):
    """The paper's five, each α of Mixup a method."""
    sam = SAM(rho, m=32)
    return {
        "sgd": Method(),
        **{f"mixup-{alpha}": Method(mixup=alpha) for alpha in ALPHAS},
        **{f"bootstrap-mixup-{alpha}": Method(mixup=alpha, bootstrap=True) for alpha in ALPHAS},
        "sam": Method(sam),
        "bootstrap-sam": Method(sam, bootstrap=True),
    }


ROWS = {
    f"noise-{noise:.0%}".rstrip("%"): Row(
        network="resnet-32",
        data="cifar10",
        augmentation="basic",
        noise=noise,
        epochs=200,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods=methods(0.05 if noise == 0.8 else 0.1),
        published={method: {"test_accuracy": numbers[i]} for method, numbers in PUBLISHED.items()},
    )
    for i, noise in enumerate(NOISE)
}
