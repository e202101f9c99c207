"""What augmentations are made of, by KerasCV's layers where it is installed, else by Keras's own.

Each function takes a batch of images, float32 from 0 to 255, and what is drawn for each image: layers move the pixels,
`augmentation` draws, so that a seed decides all and a resumed run sees what an uninterrupted one does.
"""

import importlib.util

if importlib.util.find_spec("keras_cv"):
    from keras_sam.experiments.data.layers import with_keras_cv as chosen
else:
    from keras_sam.experiments.data.layers import with_keras as chosen

NAMES = ("auto_contrast", "color", "cutout", "flip", "rotate", "sharpness", "shear", "solarize", "translate")
auto_contrast, color, cutout, flip, rotate, sharpness, shear, solarize, translate = (
    getattr(chosen, name) for name in NAMES
)
