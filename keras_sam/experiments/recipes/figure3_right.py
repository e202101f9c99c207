"""Figure 3, right: how well m-sharpness predicts the generalization gap.

The paper scores the models of a competition that is over. Here a grid of 16 small WRNs takes their place, which differ
in depth, width, batch size and weight decay and are trained by plain SGD.
"""

import itertools

from keras_sam.experiments.recipes import Method, Row

TITLE = "Predictive power of m-sharpness"

ROWS = {
    f"wrn-{depth}-{width}/batch-{batch_size}/wd-{weight_decay:g}": Row(
        network="wrn-16-4",
        options={"depth": depth, "width": width},
        data="cifar10",
        augmentation="none",
        epochs=100,
        batch_size=batch_size,
        learning_rate=0.1,
        weight_decay=weight_decay,
        methods={"sgd": Method()},
        keep_model=True,
        num_seeds=1,
    )
    for depth, width, batch_size, weight_decay in itertools.product((10, 16), (1, 4), (32, 256), (0.0, 0.0005))
}
