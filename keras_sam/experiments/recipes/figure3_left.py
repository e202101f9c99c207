"""Figure 3, left: the spectrum of the Hessian of a WRN-40-10 without BatchNormalization on CIFAR-10.

The paper says "for 300 steps … at different epochs": taken as 300 epochs. λmax at convergence is about 25 with SGD and
1.0 with SAM, λmax / λ5 up to 11.4 and 2.6.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row

TITLE = "Spectrum of the Hessian"

ROWS = {
    "wrn-40-10-no-bn/cifar10": Row(
        network="wrn-40-10-no-bn",
        data="cifar10",
        augmentation="basic",
        epochs=300,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods={"sgd": Method(), "sam": Method(SAM(0.05, m=32))},
        published={
            "sgd": {"lambda_max": "25", "lambda_max / lambda_5": "11.4"},
            "sam": {"lambda_max": "1.0", "lambda_max / lambda_5": "2.6"},
        },
        keep_model=True,
        num_seeds=1,
    )
}
