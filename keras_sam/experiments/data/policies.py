"""AutoAugment's policies and RandAugment as data: which operations, how probable, how strong.

A policy is a list of sub-policies, of which each image draws one; a sub-policy is two operations, each with its
probability and, in place of the published level from 0 to 10, the argument that the level stands for. That differs
between the two programs in which the policies were published: CIFAR's and SVHN's came with AutoAugment's, for images
of 32 pixels, the others with EfficientNet's. The reference implementation of SAM takes EfficientNet's for all, where
level 9 of a translation is 225 pixels, so that one CIFAR image in nine is nothing but grey; here it is a share of the
image.

References: [Cubuk et al., 2018](https://arxiv.org/abs/1805.09501), tables 7 to 9;
[Cubuk et al., 2019](https://arxiv.org/abs/1909.13719).
"""

import itertools

# Operations whose argument's sign is drawn.
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
# Every operation of RandAugment.
RANDAUGMENT_OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness"),
    *("Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)
RANDAUGMENT_MAGNITUDE = 9


def _common_argument(name, level):
    if name == "Rotate":
        return 3.0 * level  # degrees
    if name in ("ShearX", "ShearY"):
        return 0.03 * level
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return 0.18 * level + 0.1
    return 0.0


def _small_argument(name, level):
    """AutoAugment's program: 10 pixels of 32 for a translation, 20 for Cutout's side."""
    if name in ("TranslateX", "TranslateY"):
        return level / 32
    if name == "Cutout":
        return 2 * level / 32
    if name == "Posterize":
        return 4 - int(0.4 * level)  # bits
    if name == "Solarize":
        return 256 - int(25.6 * level)  # threshold
    return _common_argument(name, level)


def _large_argument(name, level):
    """EfficientNet's program: of 224 pixels 100 for a translation, twice 40 for Cutout's side.

    Those 100 are RandAugment's there; AutoAugment's 250 move the image out of sight.
    """
    if name in ("TranslateX", "TranslateY"):
        return 10 * level / 224
    if name == "Cutout":
        return 2 * int(4 * level) / 224
    if name == "Posterize":
        return max(1, int(0.4 * level))
    if name == "Solarize":
        return int(25.6 * level)
    if name == "SolarizeAdd":
        return int(11 * level)
    return _common_argument(name, level)


def _parsed(text, argument):
    """One sub-policy a semicolon or line, its operations by commas: name, probability, level."""
    pairs = [pair.split(",") for line in text.strip().splitlines() for pair in line.split(";")]
    operations = [[operation.split() for operation in pair] for pair in pairs]
    return [[(name, float(p), argument(name, int(level))) for name, p, level in pair] for pair in operations]


CIFAR = _parsed(
    """
    Invert 0.1 7, Contrast 0.2 6; Rotate 0.7 2, TranslateX 0.3 9
    Sharpness 0.8 1, Sharpness 0.9 3; ShearY 0.5 8, TranslateY 0.7 9
    AutoContrast 0.5 8, Equalize 0.9 2; Solarize 0.4 5, AutoContrast 0.9 3
    TranslateY 0.9 9, TranslateY 0.7 9; AutoContrast 0.9 2, Solarize 0.8 3
    Equalize 0.8 8, Invert 0.1 3; TranslateY 0.7 9, AutoContrast 0.9 1
    Solarize 0.4 5, AutoContrast 0.0 2; TranslateY 0.7 9, TranslateY 0.7 9
    AutoContrast 0.9 0, Solarize 0.4 3; Equalize 0.7 5, Invert 0.1 3
    TranslateY 0.7 9, TranslateY 0.7 9; Solarize 0.4 5, AutoContrast 0.9 1
    TranslateY 0.8 9, TranslateY 0.9 9; AutoContrast 0.8 0, TranslateY 0.7 9
    TranslateY 0.2 7, Color 0.9 6; Equalize 0.7 6, Color 0.4 9
    ShearY 0.2 7, Posterize 0.3 7; Color 0.4 3, Brightness 0.6 7
    Sharpness 0.3 9, Brightness 0.7 9; Equalize 0.6 5, Equalize 0.5 1
    Contrast 0.6 7, Sharpness 0.6 5; Brightness 0.3 7, AutoContrast 0.5 8
    AutoContrast 0.9 4, AutoContrast 0.5 6; Solarize 0.3 5, Equalize 0.6 5
    TranslateY 0.2 4, Sharpness 0.3 3; Brightness 0.0 8, Color 0.8 8
    Solarize 0.2 6, Color 0.8 6; Solarize 0.2 6, AutoContrast 0.8 1
    Solarize 0.4 1, Equalize 0.6 5; Brightness 0.0 0, Solarize 0.5 2
    AutoContrast 0.9 5, Brightness 0.5 3; Contrast 0.7 5, Brightness 0.0 2
    Solarize 0.2 8, Solarize 0.1 5; Contrast 0.5 1, TranslateY 0.2 9
    AutoContrast 0.6 5, TranslateY 0.0 9; AutoContrast 0.9 4, Equalize 0.8 4
    Brightness 0.0 7, Equalize 0.4 7; Solarize 0.2 5, Equalize 0.7 5
    Equalize 0.6 8, Color 0.6 2; Color 0.3 7, Color 0.2 4
    AutoContrast 0.5 2, Solarize 0.7 2; AutoContrast 0.2 0, Equalize 0.1 0
    ShearY 0.6 5, Equalize 0.6 5; Brightness 0.9 3, AutoContrast 0.4 1
    Equalize 0.8 8, Equalize 0.7 7; Equalize 0.7 7, Solarize 0.5 0
    Equalize 0.8 4, TranslateY 0.8 9; TranslateY 0.8 9, TranslateY 0.6 9
    TranslateY 0.9 0, TranslateY 0.5 9; AutoContrast 0.5 3, Solarize 0.3 4
    Solarize 0.5 3, Equalize 0.4 4; Color 0.7 7, TranslateX 0.5 8
    Equalize 0.3 7, AutoContrast 0.4 8; TranslateY 0.4 3, Sharpness 0.2 6
    Brightness 0.9 6, Color 0.2 8; Solarize 0.5 2, Invert 0.0 3
    AutoContrast 0.1 5, Brightness 0.0 0; Cutout 0.2 4, Equalize 0.1 1
    Equalize 0.7 7, AutoContrast 0.6 4; Color 0.1 8, ShearY 0.2 3
    ShearY 0.4 2, Rotate 0.7 0; ShearY 0.1 3, AutoContrast 0.9 5
    TranslateY 0.3 6, Cutout 0.3 3; Equalize 0.5 0, Solarize 0.6 6
    AutoContrast 0.3 5, Rotate 0.2 7; Equalize 0.8 2, Invert 0.4 0
    Equalize 0.9 5, Color 0.7 0; Equalize 0.1 1, ShearY 0.1 3
    AutoContrast 0.7 3, Equalize 0.7 0; Brightness 0.5 1, Contrast 0.1 7
    Contrast 0.1 4, Solarize 0.6 5; Solarize 0.2 3, ShearX 0.0 0
    TranslateX 0.3 0, TranslateX 0.6 0; Equalize 0.5 9, TranslateY 0.6 7
    ShearX 0.1 0, Sharpness 0.5 1; Equalize 0.8 6, Invert 0.3 6
    AutoContrast 0.3 9, Cutout 0.5 3; ShearX 0.4 4, AutoContrast 0.9 2
    ShearX 0.0 3, Posterize 0.0 3; Solarize 0.4 3, Color 0.2 4
    Equalize 0.1 4, Equalize 0.7 6; Equalize 0.3 8, AutoContrast 0.4 3
    Solarize 0.6 4, AutoContrast 0.7 6; AutoContrast 0.2 9, Brightness 0.4 8
    Equalize 0.1 0, Equalize 0.0 6; Equalize 0.8 4, Equalize 0.0 4
    Equalize 0.5 5, AutoContrast 0.1 2; Solarize 0.5 5, AutoContrast 0.9 5
    AutoContrast 0.6 1, AutoContrast 0.7 8; Equalize 0.2 0, AutoContrast 0.1 2
    Equalize 0.6 9, Equalize 0.4 4
    """,
    _small_argument,
)

SVHN = _parsed(
    """
    ShearX 0.9 4, Invert 0.2 3; ShearY 0.9 8, Invert 0.7 5
    Equalize 0.6 5, Solarize 0.6 6; Invert 0.9 3, Equalize 0.6 3
    Equalize 0.6 1, Rotate 0.9 3; ShearX 0.9 4, AutoContrast 0.8 3
    ShearY 0.9 8, Invert 0.4 5; ShearY 0.9 5, Solarize 0.2 6
    Invert 0.9 6, AutoContrast 0.8 1; Equalize 0.6 3, Rotate 0.9 3
    ShearX 0.9 4, Solarize 0.3 3; ShearY 0.8 8, Invert 0.7 4
    Equalize 0.9 5, TranslateY 0.6 6; Invert 0.9 4, Equalize 0.6 7
    Contrast 0.3 3, Rotate 0.8 4; Invert 0.8 5, TranslateY 0.0 2
    ShearY 0.7 6, Solarize 0.4 8; Invert 0.6 4, Rotate 0.8 4
    ShearY 0.3 7, TranslateX 0.9 3; ShearX 0.1 6, Invert 0.6 5
    Solarize 0.7 2, TranslateY 0.6 7; ShearY 0.8 4, Invert 0.8 8
    ShearX 0.7 9, TranslateY 0.8 3; ShearY 0.8 5, AutoContrast 0.7 3
    ShearX 0.7 2, Invert 0.1 5
    """,
    _small_argument,
)

IMAGENET = _parsed(
    """
    Equalize 0.8 1, ShearY 0.8 4; Color 0.4 9, Equalize 0.6 3
    Color 0.4 1, Rotate 0.6 8; Solarize 0.8 3, Equalize 0.4 7
    Solarize 0.4 2, Solarize 0.6 2; Color 0.2 0, Equalize 0.8 8
    Equalize 0.4 8, SolarizeAdd 0.8 3; ShearX 0.2 9, Rotate 0.6 8
    Color 0.6 1, Equalize 1.0 2; Invert 0.4 9, Rotate 0.6 0
    Equalize 1.0 9, ShearY 0.6 3; Color 0.4 7, Equalize 0.6 0
    Posterize 0.4 6, AutoContrast 0.4 7; Solarize 0.6 8, Color 0.6 9
    Solarize 0.2 4, Rotate 0.8 9; Rotate 1.0 7, TranslateY 0.8 9
    ShearX 0.0 0, Solarize 0.8 4; ShearY 0.8 0, Color 0.6 4
    Color 1.0 0, Rotate 0.6 2; Equalize 0.8 4, Equalize 0.0 8
    Equalize 1.0 4, AutoContrast 0.6 2; ShearY 0.4 7, SolarizeAdd 0.6 7
    Posterize 0.8 2, Solarize 0.6 10; Solarize 0.6 8, Equalize 0.6 1
    Color 0.8 6, Rotate 0.4 5
    """,
    _large_argument,
)

# Two operations drawn at random, one after the other: every pair is a sub-policy.
RANDAUGMENT = [
    [(name, 1.0, _large_argument(name, RANDAUGMENT_MAGNITUDE)) for name in pair]
    for pair in itertools.product(RANDAUGMENT_OPERATIONS, repeat=2)
]
