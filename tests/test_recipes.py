"""The paper's hyperparameters and numbers, read a second time from its tables; and that every row can be made."""

import re

import pytest

from keras_sam.experiments import recipes
from keras_sam.experiments.recipes import Method

ROWS = [(table, name) for table in recipes.NAMES for name in recipes.module(table).ROWS]


def row(table, name):
    return recipes.module(table).ROWS[name]


def test_every_table_and_figure_with_training_is_there():
    sizes = {name: len(recipes.module(name).ROWS) for name in recipes.NAMES}
    assert sizes == {
        "table1": 30, "table2": 9, "table3": 18, "table4": 4, "table5": 8, "table9": 4, "table10": 30, "table11": 8,
        "table12": 2, "figure1": 1, "figure3-left": 1, "figure3-middle": 4, "figure3-right": 16, "figure4": 1,
        "figure5": 1, "figure6": 1, "figure7": 2, "small-table4": 5, "small-table5": 13, "small-table12": 1,
        "small-figure4": 1, "small-figure6": 1,
    }  # fmt: skip


# Tables 6, 7 and 8: learning rate, weight decay, ρ.
@pytest.mark.parametrize(
    ("table", "name", "learning_rate", "weight_decay", "rho"),
    [
        ("table1", "wrn-28-10/cutout/cifar10", 0.1, 0.0005, 0.05),
        ("table1", "wrn-28-10/basic/cifar100", 0.1, 0.0005, 0.1),
        ("table1", "wrn-28-10-1800/autoaugment/cifar10", 0.05, 0.001, 0.05),
        ("table1", "wrn-28-10-1800/basic/cifar100", 0.05, 0.001, 0.1),
        ("table1", "shake-shake/basic/cifar10", 0.02, 0.001, 0.02),
        ("table1", "shake-shake/basic/cifar100", 0.02, 0.001, 0.05),
        ("table1", "pyramidnet/basic/cifar10", 0.05, 0.0005, 0.05),
        ("table1", "pyramidnet/basic/cifar100", 0.05, 0.0005, 0.2),
        ("table1", "pyramidnet-shakedrop/basic/cifar10", 0.02, 0.0005, 0.05),
        ("table1", "pyramidnet-shakedrop/basic/cifar100", 0.05, 0.0005, 0.05),
        ("table2", "resnet-101/400", 1.0, 0.0001, 0.05),
        ("table3", "efficientnet-b7/cars196", 0.016, 1e-5, 0.2),
        ("table3", "efficientnet-b7/food101", 0.016, 1e-5, 0.02),
        ("table3", "efficientnet-l2/oxford_iiit_pet", 0.008, 1e-5, 0.1),
        ("table3", "efficientnet-l2/imagenet2012", 0.1, 1e-5, 0.05),
        ("table5", "wrn-28-10/basic/svhn", 0.01, 0.0005, 0.01),
        ("table5", "shake-shake/autoaugment/svhn", 0.01, 0.0005, 0.01),
        ("table5", "wrn-28-10/autoaugment/fashion_mnist", 0.1, 0.0005, 0.05),
        ("table5", "shake-shake/basic/fashion_mnist", 0.1, 0.0005, 0.02),
        ("table10", "pyramidnet/basic/cifar100", 0.05, 0.0005, 0.05),
        ("table11", "efficientnet-b7/oxford_flowers102", 0.016, 1e-5, 0.05),
    ],
)
def test_hyperparameters(table, name, learning_rate, weight_decay, rho):
    found = row(table, name)
    assert (found.learning_rate, found.weight_decay, found.methods["sam"].rule.rho) == (
        learning_rate,
        weight_decay,
        rho,
    )


def test_batches_micro_batches_and_lengths():
    def of(table, name):
        found = row(table, name)
        return found.batch_size, found.methods["sam"].rule.m, found.epochs, found.steps

    assert of("table1", "wrn-28-10/basic/cifar10") == (256, 32, 200, None)
    assert of("table1", "wrn-28-10-1800/basic/cifar10") == (256, 32, 1800, None)
    assert of("table2", "resnet-50/100") == (4096, 128, 100, None)
    assert of("table3", "efficientnet-b7/cifar10") == (1024, 16, None, 5000)
    assert of("table3", "efficientnet-l2/cifar10") == (512, 4, None, 10000)
    assert of("table3", "efficientnet-b7/imagenet2012") == (1024, 16, 10, None)
    assert of("table4", "noise-40") == (256, 32, 200, None)


def test_plain_training_gets_twice_the_epochs_where_the_paper_gives_it_them():
    for table in ("table1", "table5"):
        for found in recipes.module(table).ROWS.values():
            assert {name: method.epochs for name, method in found.methods.items()} == {"sam": 1, "sgd": 1, "sgd-2x": 2}
    for table in ("table2", "table3"):
        for found in recipes.module(table).ROWS.values():
            assert {name: method.epochs for name, method in found.methods.items()} == {"sam": 1, "sgd": 1}


def test_augmentation():
    assert row("table1", "shake-shake/autoaugment/cifar100").augmentation == "autoaugment-cifar"
    assert row("table5", "wrn-28-10/autoaugment/svhn").augmentation == "autoaugment-svhn"
    assert row("table5", "wrn-28-10/autoaugment/fashion_mnist").augmentation == "basic+cutout"
    with_policy = [name for name, found in recipes.module("table3").ROWS.items() if "auto" in found.augmentation]
    assert with_policy == [f"efficientnet-{net}/{data}" for net in ("b7", "l2") for data in ("cifar10", "cifar100")]
    assert all(found.fine_tune for found in recipes.module("table3").ROWS.values())


def test_wrong_labels():
    rows = recipes.module("table4").ROWS
    assert {name: found.noise for name, found in rows.items()} == {
        "noise-20": 0.2, "noise-40": 0.4, "noise-60": 0.6, "noise-80": 0.8
    }  # fmt: skip
    assert [found.methods["bootstrap-sam"].rule.rho for found in rows.values()] == [0.1, 0.1, 0.1, 0.05]
    methods = rows["noise-20"].methods
    assert [methods[f"bootstrap-mixup-{alpha}"] for alpha in (1, 8, 16, 32)] == [
        Method(mixup=alpha, bootstrap=True) for alpha in (1, 8, 16, 32)
    ]
    by_rho = row("table9", "noise-80")
    assert by_rho.held_out == 0.1
    assert [(m.rule.rho, m.bootstrap) for m in by_rho.methods.values()] == [
        (rho, True) for rho in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ]


def test_the_ablations():
    found = row("table12", "wrn-28-10/cifar100")
    assert [method.rule.ascent_steps for method in found.methods.values()] == [1, 2, 3, 5]
    assert found.num_seeds == 20
    assert [m.rule.second_order for m in row("figure4", "wrn-40-2/cifar10").methods.values()] == [False, True]
    assert [f.methods["rho-0.1"].rule.m for f in recipes.module("figure3-middle").ROWS.values()] == [4, 16, 64, 256]
    norms = row("figure6", "wrn-28-10/cifar10").methods
    assert (norms["p-2/rho-0.05"].rule.p, norms["p-inf/rho-1e-05"].rule.p) == (2.0, float("inf"))


# One number a table, and the ones that are easy to get wrong.
@pytest.mark.parametrize(
    ("table", "name", "method", "metric", "printed"),
    [
        ("table1", "wrn-28-10-1800/autoaugment/cifar10", "sam", "test_error", "1.6 ± 0.1"),
        ("table1", "wrn-28-10-1800/autoaugment/cifar10", "sgd", "test_error", "2.2 ± <0.1"),
        ("table1", "pyramidnet-shakedrop/autoaugment/cifar100", "sam", "test_error", "10.3 ± 0.1"),
        ("table2", "resnet-152/400", "sgd", "top5_error", "5.84 ± 0.07"),
        ("table3", "efficientnet-l2/imagenet2012", "sam", "test_error", "11.39 ± 0.02"),
        ("table3", "efficientnet-b7/imagenet2012", "sgd", "test_error", "15.3"),
        ("table4", "noise-80", "bootstrap-sam", "test_accuracy", "79.9"),
        ("table5", "shake-shake/autoaugment/svhn", "sgd", "test_error", "1.03 ± 0.02"),
        ("table9", "noise-80", "rho-0.05", "validation_error", "21.0"),
        ("table9", "noise-20", "rho-0", "validation_error", "15.0"),
        ("table10", "pyramidnet/autoaugment/cifar10", "sam", "test_error", "1.4"),
        ("table11", "efficientnet-b7/food101", "sam", "test_error", "7.06"),
        ("table12", "wrn-28-10/cifar100", "steps-3", "sharpness_of_error", "2.36 ± 0.03"),
    ],
)
def test_published_numbers(table, name, method, metric, printed):
    assert row(table, name).published[method][metric] == printed


@pytest.mark.parametrize("table", recipes.NAMES)
def test_published_numbers_are_numbers_of_methods_that_can_be_run(table):
    for found in recipes.module(table).ROWS.values():
        for method, metrics in found.published.items():
            # The best of several, and columns that are another table's, which have no run here.
            elsewhere = table in ("table10", "table11") and method != "sam"
            assert elsewhere or any(name == method or name.startswith(f"{method}-") for name in found.methods)
            for printed in metrics.values():
                assert re.fullmatch(r"\d+(\.\d+)?( ± <?\d+\.\d+)?", printed)
