"""Networks, one family a module, and their names.

A module is imported when a network of it is built.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


class Network(NamedTuple):
    """A network of the paper.

    Args:
        build: Function of a model class, the shape of an image, the number of classes and options, that returns an
            uncompiled model of this class whose outputs are logits.
        options: Dict, the options of `build` that make this network.
        reduced: Dict, options in their place that make a network of the same architecture so small that a step
            takes a moment.
        parameters: Optional string, the published number of trainable parameters, in millions, or `None`.
        source: Optional string, where it was published.
        input_shape: Tuple, the shape of an image that `parameters` and the paper's runs are for.
        num_classes: Int, likewise.
        takes_pixels: Boolean, whether the network standardizes images in [0, 255] itself, or expects them standardized.
    """

    build: Callable[..., Any]
    options: dict
    reduced: dict
    parameters: str | None = None
    source: str | None = None
    input_shape: tuple = CIFAR
    num_classes: int = 10
    takes_pixels: bool = False


def _of(name):
    """The function of this name, in the module of this name."""

    def build(cls, input_shape, num_classes, **options):
        module = importlib.import_module(f"{__name__}.{name}")
        return getattr(module, name)(cls, input_shape, num_classes, **options)

    return build


WIDE = "Zagoruyko and Komodakis, 2016"
SHAKE = "Gastaldi, 2017"
PYRAMID = "Han et al., 2016"
HE = "He et al., 2015, table 6"
VISION = "torchvision, whose ResNets are v1.5"
TAN = "Tan and Le, 2019, table 2"

_SMALL_RESNET = {"stages": (1, 1), "width": 8}
_SMALL_EFFICIENTNET = {"scale": (0.25, 0.25, 0.2)}


def _wide(depth, width, parameters=None, **options):
    options = {"depth": depth, "width": width, **options}
    return Network(_of("wide_resnet"), options, {"depth": 10, "width": 2}, parameters, WIDE if parameters else None)


def _pyramid(shake_drop):
    return Network(_of("pyramid_net"), {"shake_drop": shake_drop}, {"depth": 11, "alpha": 12}, "26.0", PYRAMID)


def _resnet(stages, parameters):
    return Network(_of("imagenet_resnet"), {"stages": stages}, _SMALL_RESNET, parameters, VISION, IMAGENET, 1000)


def _efficientnet(scale, resolution, parameters, source=TAN):
    shape = (resolution, resolution, 3)
    return Network(
        _of("efficientnet"), {"scale": scale}, _SMALL_EFFICIENTNET, parameters, source, shape, 1000, takes_pixels=True
    )


NETWORKS = {
    "wrn-28-10": _wide(28, 10, "36.5"),
    "wrn-40-2": _wide(40, 2, "2.2"),
    "wrn-40-10-no-bn": _wide(40, 10, normalize=False),
    "wrn-16-4": _wide(16, 4),
    "resnet-32": Network(_of("cifar_resnet"), {"depth": 32}, {"depth": 8}, "0.46", HE),
    "resnet-56": Network(_of("cifar_resnet"), {"depth": 56}, {"depth": 8}, "0.85", HE),
    # Its shortcuts have no parameters.
    "resnet-56-no-skips": Network(_of("cifar_resnet"), {"depth": 56, "skips": False}, {"depth": 8}, "0.85", HE),
    "shake-shake-26-2x96d": Network(_of("shake_shake"), {}, {"depth": 8, "width": 16}, "26.2", SHAKE),
    "pyramidnet-272": _pyramid(shake_drop=False),
    "pyramidnet-272-shakedrop": _pyramid(shake_drop=True),
    "resnet-50": _resnet((3, 4, 6, 3), "25.6"),
    "resnet-101": _resnet((3, 4, 23, 3), "44.5"),
    "resnet-152": _resnet((3, 8, 36, 3), "60.2"),
    "efficientnet-b0": _efficientnet("b0", 224, "5.3"),
    "efficientnet-b1": _efficientnet("b1", 240, "7.8"),
    # Tan and Le print 9.2, for the same network.
    "efficientnet-b2": _efficientnet("b2", 260, "9.1", "torchvision"),
    "efficientnet-b3": _efficientnet("b3", 300, "12"),
    "efficientnet-b4": _efficientnet("b4", 380, "19"),
    "efficientnet-b5": _efficientnet("b5", 456, "30"),
    "efficientnet-b6": _efficientnet("b6", 528, "43"),
    "efficientnet-b7": _efficientnet("b7", 600, "66"),
    "efficientnet-l2": _efficientnet("l2", 475, "480", "Xie et al., 2019, table 2"),
    "efficientnet-lite0": Network(
        _of("efficientnet_lite"),
        {},
        {"width": 0.25, "depth": 0.25},
        "4.7",
        "the authors' code, github.com/tensorflow/tpu",
        IMAGENET,
        1000,
        takes_pixels=True,
    ),
    "small-cnn": Network(_of("small_cnn"), {}, {}),
    "small-resnet": Network(_of("small_resnet"), {}, {}),
}
