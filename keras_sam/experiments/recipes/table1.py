"""Table 1: CIFAR-10 and CIFAR-100 from scratch. SAM lowers the test error of every network with every augmentation.

The hyperparameters are table 6's. The paper gives the number of epochs of WRN alone; Shake-Shake and PyramidNet have
the 1800 of AutoAugment, whose recipes they follow.
"""

from keras_sam.experiments.recipes import Row, against_sgd

TITLE = "CIFAR-10 and CIFAR-100"
AUGMENTATIONS = {"basic": "basic", "cutout": "basic+cutout", "autoaugment": "autoaugment-cifar"}
DATA_SETS = "cifar10", "cifar100"

# Name, network, epochs; learning rates, weight decay and ρ by data set.
NETWORKS = (
    ("wrn-28-10", "wrn-28-10", 200, (0.1, 0.1), 0.0005, (0.05, 0.1)),
    ("wrn-28-10-1800", "wrn-28-10", 1800, (0.05, 0.05), 0.001, (0.05, 0.1)),
    ("shake-shake", "shake-shake-26-2x96d", 1800, (0.02, 0.02), 0.001, (0.02, 0.05)),
    ("pyramidnet", "pyramidnet-272", 1800, (0.05, 0.05), 0.0005, (0.05, 0.2)),
    ("pyramidnet-shakedrop", "pyramidnet-272-shakedrop", 1800, (0.02, 0.05), 0.0005, (0.05, 0.05)),
)

# Test error of SAM and SGD on CIFAR-10, then on CIFAR-100.
PUBLISHED = {
    "wrn-28-10/basic": ("2.7 ± 0.1", "3.5 ± 0.1", "16.5 ± 0.2", "18.8 ± 0.2"),
    "wrn-28-10/cutout": ("2.3 ± 0.1", "2.6 ± 0.1", "14.9 ± 0.2", "16.9 ± 0.1"),
    "wrn-28-10/autoaugment": ("2.1 ± <0.1", "2.3 ± 0.1", "13.6 ± 0.2", "15.8 ± 0.2"),
    "wrn-28-10-1800/basic": ("2.4 ± 0.1", "3.5 ± 0.1", "16.3 ± 0.2", "19.1 ± 0.1"),
    "wrn-28-10-1800/cutout": ("2.1 ± 0.1", "2.7 ± 0.1", "14.0 ± 0.1", "17.4 ± 0.1"),
    "wrn-28-10-1800/autoaugment": ("1.6 ± 0.1", "2.2 ± <0.1", "12.8 ± 0.2", "16.1 ± 0.2"),
    "shake-shake/basic": ("2.3 ± <0.1", "2.7 ± 0.1", "15.1 ± 0.1", "17.0 ± 0.1"),
    "shake-shake/cutout": ("2.0 ± <0.1", "2.3 ± 0.1", "14.2 ± 0.2", "15.7 ± 0.2"),
    "shake-shake/autoaugment": ("1.6 ± <0.1", "1.9 ± 0.1", "12.8 ± 0.1", "14.1 ± 0.2"),
    "pyramidnet/basic": ("2.7 ± 0.1", "4.0 ± 0.1", "14.6 ± 0.4", "19.7 ± 0.3"),
    "pyramidnet/cutout": ("1.9 ± 0.1", "2.5 ± 0.1", "12.6 ± 0.2", "16.4 ± 0.1"),
    "pyramidnet/autoaugment": ("1.6 ± 0.1", "1.9 ± 0.1", "11.6 ± 0.1", "14.6 ± 0.1"),
    "pyramidnet-shakedrop/basic": ("2.1 ± 0.1", "2.5 ± 0.1", "13.3 ± 0.2", "14.5 ± 0.1"),
    "pyramidnet-shakedrop/cutout": ("1.6 ± <0.1", "1.9 ± 0.1", "11.3 ± 0.1", "11.8 ± 0.2"),
    "pyramidnet-shakedrop/autoaugment": ("1.4 ± <0.1", "1.6 ± <0.1", "10.3 ± 0.1", "10.6 ± 0.1"),
}


def published(name, augmentation, data_set):
    """What the paper prints in a row."""
    numbers = PUBLISHED[f"{name}/{augmentation}"][2 * data_set :]
    return {"sam": {"test_error": numbers[0]}, "sgd": {"test_error": numbers[1]}}


ROWS = {
    f"{name}/{augmentation}/{data}": Row(
        network=network,
        data=data,
        augmentation=pipeline,
        epochs=epochs,
        learning_rate=learning_rates[i],
        weight_decay=weight_decay,
        methods=against_sgd(rhos[i]),
        published=published(name, augmentation, i),
    )
    for name, network, epochs, learning_rates, weight_decay, rhos in NETWORKS
    for augmentation, pipeline in AUGMENTATIONS.items()
    for i, data in enumerate(DATA_SETS)
}
