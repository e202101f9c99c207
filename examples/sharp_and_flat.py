"""Section 4.2 of the paper on one CPU: what SGD and SAM converge to, as a spectrum and as a landscape.

```
python examples/sharp_and_flat.py
```

A small network without BatchNormalization learns 768 digits with SGD, with SAM of the paper's default radius, and with
a larger one. The Hessian of the training loss is measured three times while it does, and the loss around the result is
drawn at the end. Writes `sharp_and_flat.json`, `sharp_and_flat_spectra.png` and `sharp_and_flat_landscapes.png`; half a
minute a seed and method on one core. Expect all to fit every training image, and λ_max to fall by a factor of 2.5
with ρ = 0.05 and of 5 with 0.2.

`--case fashion` asks the same of a WRN-10-1 without BatchNormalization, nearer to figure 3's WRN-40-10, and 2,000
images of Fashion-MNIST at 14 × 14 pixels; the Hessian is that of the loss on 500 of them. Its files begin with
`sharp_and_flat_fashion`; ten minutes a seed and method on one core.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
from keras import layers

import keras_sam
from keras_sam import sharpness
from keras_sam.experiments import results
from keras_sam.experiments.data import digits, fashion_mnist
from keras_sam.experiments.data.splits import Split
from keras_sam.experiments.models.wide_resnet import wide_resnet
from keras_sam.experiments.statistics import mean_and_interval
from keras_sam.sharpness import plots

METHODS = {"SGD": None, "SAM, ρ = 0.05": keras_sam.SAM(rho=0.05), "SAM, ρ = 0.2": keras_sam.SAM(rho=0.2)}
M, WEIGHT_DECAY = 16, 5e-4


class Case(NamedTuple):
    """What is trained, and on how many of the training images the Hessian is measured.

    Args:
        load: Function from a seed to the training, validation and test `Split`.
        network: Function from the shape of an image to a `SAMModel` of ten classes, not compiled.
        epochs: Int.
        num_measured: Int.
    """

    load: Callable
    network: Callable
    epochs: int
    num_measured: int


def small_network(input_shape):
    """Two convolutions and two dense layers."""
    options = {"kernel_initializer": "he_normal"}
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", **options)(inputs)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", **options)(x)
    x = layers.Dense(32, activation="relu", **options)(layers.Flatten()(x))
    return keras_sam.SAMModel(inputs, layers.Dense(10, **options)(x))


def halved(split):
    """Images of half the height and width, each pixel the mean of four."""
    return Split(split.x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)), split.y)


CASES = {
    "digits": Case(lambda seed: digits.load(seed=seed), small_network, 100, 768),
    "fashion": Case(
        lambda seed: map(halved, fashion_mnist.load(seed=seed, num_train=2000)),
        lambda shape: wide_resnet(keras_sam.SAMModel, shape, 10, depth=10, width=1, normalize=False),
        *(100, 500),
    ),
}


def train(case, rule, seed, epochs, order):
    """A trained model; what it is measured on; and what was measured after 1/20, 1/5 and all of the epochs."""
    data, _, test = case.load(seed)
    keras.utils.set_random_seed(seed)
    model = case.network(data.x.shape[1:])
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.regularizer = keras.regularizers.L2(WEIGHT_DECAY / 2)
    steps = epochs * -(-len(data.y) // 128)
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, steps), momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=rule,
    )
    part = Split(data.x[: case.num_measured], data.y[: case.num_measured])
    options = {"batch_size": case.num_measured, "verbose": 0}
    measured, done = [], 0
    for epoch in sorted({max(1, epochs // 20), max(1, epochs // 5), epochs}):
        logs = model.fit(data.x, data.y, 128, epoch, initial_epoch=done, verbose=0).history
        density = sharpness.hessian_density(model, part, order=order, **options)
        eigenvalues = sharpness.hessian_eigenvalues(model, part, 5, **options)
        measured.append((epoch, logs["loss"][-1], logs["accuracy"][-1], density, eigenvalues))
        done = epoch
    accuracy = model.evaluate(test.x, test.y, batch_size=1000, verbose=0, return_dict=True)["accuracy"]
    return model, part, measured, accuracy


def summary(seed, model, data, measured, accuracy):
    """The numbers of a run, for the file."""
    _, loss, train_accuracy, _, eigenvalues = measured[-1]
    return {
        "lambda_max": float(eigenvalues[0]),
        "lambda_max / lambda_5": float(eigenvalues[0] / eigenvalues[4]),
        "sharpness, rho = 0.05": sharpness.sharpness(model, data, rho=0.05, batch_size=len(data.y), verbose=0).loss,
        f"sharpness, rho = 0.05, m = {M}": sharpness.sharpness(model, data, 0.05, M, batch_size=M, verbose=0).loss,
        "training loss": loss,
        "training accuracy": train_accuracy,
        "test accuracy": accuracy,
        "seed": seed,
        "eigenvalues": {epoch: values.tolist() for epoch, _, _, _, values in measured},
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="default: what the case says")
    parser.add_argument("--order", type=int, default=80, help="steps of Lanczos for the density")
    parser.add_argument("--points", type=int, default=25, help="of each axis of the landscapes")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args(argv)
    if options.points < 2:
        parser.error(f"--points: received {options.points}, expected 2 at least.")
    case = CASES[options.case]
    epochs = options.epochs or case.epochs
    stem = "sharp_and_flat" if options.case == "digits" else f"sharp_and_flat_{options.case}"
    path = options.output / f"{stem}.json"
    if path.exists():
        parser.error(f"{path} is there, and no result is overwritten: give another --output.")
    options.output.mkdir(parents=True, exist_ok=True)

    runs, columns, surfaces = {name: [] for name in METHODS}, {}, {}
    for seed in range(options.seeds):
        for name, rule in METHODS.items():
            model, data, measured, accuracy = train(case, rule, seed, epochs, options.order)
            runs[name].append(summary(seed, model, data, measured, accuracy))
            print(f"seed {seed}  {name}  λ_max {runs[name][-1]['lambda_max']:.2f}")
            if seed == 0:
                columns[name] = [(f"epoch {epoch}", density, values) for epoch, _, _, density, values in measured]
                surfaces[name] = sharpness.loss_surface(
                    model, data, num_points=options.points, batch_size=case.num_measured, verbose=0
                )
    for metric in list(runs["SGD"][0])[:7]:
        texts = []
        for name, of_method in runs.items():
            mean, interval = mean_and_interval([run[metric] for run in of_method])
            texts.append(f"{name} {mean:.3g} ± {interval:.2g}")
        print(f"{metric:30}", "   ".join(texts))
    settings = {"epochs": epochs, "order": options.order}
    content = {**results.provenance(), "settings": settings, "runs": runs}
    results.write_json(path, content)
    for name, figure in [("spectra", plots.spectra(columns)), ("landscapes", plots.landscapes(surfaces))]:
        with results.replacing(options.output / f"{stem}_{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    return runs


if __name__ == "__main__":
    main()
