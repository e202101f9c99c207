"""Figure 1: the loss around what SGD and SAM converge to, a ResNet-56 without skip connections on CIFAR-10.

Its left part is a picture of tables 1 to 5, which `keras-sam report` draws. Here the two networks are trained and
kept; `keras-sam sharpness` draws the landscape of one. The paper gives no hyperparameters: epochs, batch size, first
learning rate and weight decay are those of Li et al., whose checkpoint it draws for SGD, and m = 32 is that of its
other trainings on CIFAR.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row

TITLE = "A sharp and a wide minimum of ResNet-56 without skips"

ROWS = {
    "resnet-56-no-skips/cifar10": Row(
        network="resnet-56-no-skips",
        data="cifar10",
        augmentation="basic",
        epochs=300,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods={"sgd": Method(), "sam": Method(SAM(0.05, m=32))},
        keep_model=True,
        num_seeds=1,
    )
}
