"""Figure 3, middle: the test error by ρ and m. A smaller m generalizes better.

A small ResNet on CIFAR-10. With BatchNormalization micro-batches change more than ε̂, so each m has its control,
ρ = 0 in the same micro-batches. The paper prints curves alone.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import RHOS, Method, Row, control

TITLE = "Test error by ρ and m"
MS = (4, 16, 64, 256)


ROWS = {
    f"resnet-32/m-{m}": Row(
        network="resnet-32",
        data="cifar10",
        augmentation="basic",
        epochs=200,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods={"control": Method(control(m)), **{f"rho-{rho:g}": Method(SAM(rho, m=m)) for rho in RHOS}},
    )
    for m in MS
}
