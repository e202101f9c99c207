"""Table 5's question on one processor: 5,000 images of Fashion-MNIST, their labels clean or 40 % of them wrong.

A pre-activation ResNet-8 of 78,000 weights, long enough that plain training fits its training set. Choose ρ first
(`keras-sam grid small-table5 --row noise-40/none --method sam --method sam-m-32 --tune rho --seeds 3`, likewise the
other rows), then `--tuned`. One to seven minutes a run of SAM on one core. Expect errors of 18 to 19 % for SGD's 38
where labels are wrong; with flip and crop SGD is ahead there, with 17 for 20. On clean images expect 13.1 (12.8 with
m = 32) for 14.2 without augmentation, 12.9 for 11.7 with flip and crop, 15.4 for 12.6 with Cutout as well.

In the rows `noise-40-decay/none` and `clean-decay/none` the weight decay is the one that SGD is best with on held-out
data, as in the paper (C.1), found by `--tune lr-wd`. Expect 18.3 for 18.8 with wrong labels, and 12.1 for 13.0 with
clean ones (11.7 with m = 32).

The row `clean-long/basic` has flip and crop for so many epochs that SGD fits its labels, 25 minutes to an hour a run of
SAM on JAX: expect 10.1 for 10.6 of as many epochs, and of twice as many.

The rows `60000/none` and `60000/basic` take all images and twice the width, a quarter to three quarters of an hour
a run of SAM. Expect 7.0 for 7.1 without augmentation, and with flip and crop, where SGD fits 93 % of its labels, 7.7
for 7.3. `60000-long/basic` has twice the epochs, about an hour a run of SAM on JAX: expect 6.9 for 6.8, and
6.3 for SGD of twice the epochs, which does not fit all labels either. `60000-wide/basic` has a network twice as
wide again for 20 epochs: expect 7.0 for SGD, of one seed.
"""

import dataclasses

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row, control

TITLE = "Fashion-MNIST on one processor"
AUGMENTATIONS = ("none", "basic", "basic+cutout")
# By noise: what SGD needs to fit the training set.
EPOCHS = {0.0: 40, 0.4: 20}
# Where a network has not fitted its labels a smaller ρ is the better one.
RHOS = {
    (0.0, "none"): (0.05, 0.1, 0.2, 0.5, 1.0),
    (0.4, "none"): (0.05, 0.1, 0.2, 0.5, 1.0),
    (0.0, "basic"): (0.02, 0.05, 0.1, 0.2),
    (0.4, "basic"): (0.02, 0.05, 0.1, 0.2, 0.5),
}

METHODS = {
    "sam": Method(SAM(0.1)),
    "sam-m-32": Method(SAM(0.1, m=32)),
    # BatchNormalization by 32 images instead of 128 is a change of its own.
    "m-32-control": Method(control(32)),
    # Table 10's question, what is lost without choosing.
    "rho-0.05": Method(SAM(0.05)),
    "sgd-half": Method(epochs=0.5),
    "sgd": Method(),
    "sgd-2x": Method(epochs=2),
    "sgd-stopped": Method(stop_early=True),
}

ROWS = {
    f"{'noise-40' if noise else 'clean'}/{augmentation}": Row(
        network="small-resnet",
        data="fashion_mnist",
        num_examples=5000,
        noise=noise,
        augmentation=augmentation,
        epochs=epochs,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=0.0005,
        methods=METHODS,
        rhos=RHOS[noise, augmentation.split("+")[0]],
    )
    for noise, epochs in EPOCHS.items()
    for augmentation in AUGMENTATIONS
}
# The weight decay, those that it and the ρ were chosen from.
DECAYS = {
    "noise-40": (0.02, (0.0005, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05), (0.01, 0.02, 0.05, 0.1)),
    "clean": (0.02, (0.0005, 0.002, 0.005, 0.01, 0.02, 0.03), (0.02, 0.05, 0.1, 0.2)),
}
ROWS |= {
    f"{labels}-decay/none": dataclasses.replace(
        ROWS[f"{labels}/none"],
        weight_decay=decay,
        rhos=rhos,
        learning_rates=(0.1,),
        weight_decays=decays,
        methods={name: METHODS[name] for name in ("sgd", "sgd-2x", "sam", "sam-m-32")},
    )
    for labels, (decay, decays, rhos) in DECAYS.items()
}
# Twice the width and five times the epochs, for SGD to fit 5,000 images with flip and crop.
ROWS["clean-long/basic"] = dataclasses.replace(
    ROWS["clean/basic"], options={"width": 32}, epochs=200, num_seeds=3, rhos=(0.05, 0.1, 0.2, 0.5)
)
# All images and a wider network. SGD is far from fitting them in 20 epochs with flip and crop: 93 % of its labels.
ALL_IMAGES = (
    ("60000", "none", 32, 15),
    ("60000", "basic", 32, 20),
    ("60000-long", "basic", 32, 40),
    ("60000-wide", "basic", 64, 20),
)
ROWS |= {
    f"{images}/{augmentation}": dataclasses.replace(
        ROWS[f"clean/{augmentation}"],
        num_examples=None,
        options={"width": width},
        epochs=epochs,
        methods={name: METHODS[name] for name in ("sam", "rho-0.05", "sgd", "sgd-2x")},
        num_seeds=3,
    )
    for images, augmentation, width, epochs in ALL_IMAGES
}
