"""Section 4.2 of the paper on one CPU: what SGD and SAM converge to, as a spectrum and as a landscape.

```
python examples/sharp_and_flat.py
```

A small network without BatchNormalization learns 768 digits with SGD, with SAM of the paper's default radius, and with
a larger one. The Hessian of the training loss is measured three times while it does, and the loss around the result is
drawn at the end. Writes `sharp_and_flat.json`, `sharp_and_flat_spectra.png` and `sharp_and_flat_landscapes.png`; half a
minute a seed and method on one core. Expect all to fit every training image, and λ_max to fall by a factor of 3 with
ρ = 0.05 and of 8 with 0.2.
"""

import argparse
from pathlib import Path

import keras
from keras import layers

import keras_sam
from keras_sam import sharpness
from keras_sam.experiments import results
from keras_sam.experiments.data import digits
from keras_sam.experiments.statistics import mean_and_interval
from keras_sam.sharpness import plots

METHODS = {"SGD": None, "SAM, ρ = 0.05": keras_sam.SAM(rho=0.05), "SAM, ρ = 0.2": keras_sam.SAM(rho=0.2)}
M = 16


def network(input_shape, num_classes, weight_decay=5e-4):
    """Two convolutions and two dense layers."""
    options = {"kernel_initializer": "he_normal", "kernel_regularizer": keras.regularizers.L2(weight_decay / 2)}
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", **options)(inputs)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", **options)(x)
    x = layers.Dense(32, activation="relu", **options)(layers.Flatten()(x))
    return keras_sam.SAMModel(inputs, layers.Dense(num_classes, **options)(x))


def train(rule, seed, epochs, order):
    """A trained model; its training data; and what was measured after 1/20, 1/5 and all of the epochs."""
    data, _, test = digits.load(seed=seed)
    keras.utils.set_random_seed(seed)
    model = network(data.x.shape[1:], 10)
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 6 * epochs), momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=rule,
    )
    measured, done = [], 0
    for epoch in sorted({max(1, epochs // 20), max(1, epochs // 5), epochs}):
        logs = model.fit(data.x, data.y, 128, epoch, initial_epoch=done, verbose=0).history
        density = sharpness.hessian_density(model, data, order=order, batch_size=768, verbose=0)
        eigenvalues = sharpness.hessian_eigenvalues(model, data, 5, batch_size=768, verbose=0)
        measured.append((epoch, logs["loss"][-1], logs["accuracy"][-1], density, eigenvalues))
        done = epoch
    accuracy = model.evaluate(test.x, test.y, batch_size=797, verbose=0, return_dict=True)["accuracy"]
    return model, data, measured, accuracy


def summary(seed, model, data, measured, accuracy):
    """The numbers of a run, for the file."""
    _, loss, train_accuracy, _, eigenvalues = measured[-1]
    return {
        "lambda_max": float(eigenvalues[0]),
        "lambda_max / lambda_5": float(eigenvalues[0] / eigenvalues[4]),
        "sharpness, rho = 0.05": sharpness.sharpness(model, data, rho=0.05, batch_size=768, verbose=0).loss,
        f"sharpness, rho = 0.05, m = {M}": sharpness.sharpness(model, data, 0.05, M, batch_size=M, verbose=0).loss,
        "training loss": loss,
        "training accuracy": train_accuracy,
        "test accuracy": accuracy,
        "seed": seed,
        "eigenvalues": {epoch: values.tolist() for epoch, _, _, _, values in measured},
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--order", type=int, default=80, help="steps of Lanczos for the density")
    parser.add_argument("--points", type=int, default=25, help="of each axis of the landscapes")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args(argv)

    runs, columns, surfaces = {name: [] for name in METHODS}, {}, {}
    for seed in range(options.seeds):
        for name, rule in METHODS.items():
            model, data, measured, accuracy = train(rule, seed, options.epochs, options.order)
            runs[name].append(summary(seed, model, data, measured, accuracy))
            print(f"seed {seed}  {name}  λ_max {runs[name][-1]['lambda_max']:.2f}")
            if seed == 0:
                columns[name] = [(f"epoch {epoch}", density, values) for epoch, _, _, density, values in measured]
                surfaces[name] = sharpness.loss_surface(
                    model, data, num_points=options.points, batch_size=768, verbose=0
                )
    for metric in list(runs["SGD"][0])[:7]:
        texts = []
        for name, of_method in runs.items():
            mean, interval = mean_and_interval([run[metric] for run in of_method])
            texts.append(f"{name} {mean:.3g} ± {interval:.2g}")
        print(f"{metric:30}", "   ".join(texts))
    options.output.mkdir(parents=True, exist_ok=True)
    settings = {"epochs": options.epochs, "order": options.order}
    content = {**results.provenance(), "settings": settings, "runs": runs}
    results.write_json(options.output / "sharp_and_flat.json", content)
    for name, figure in [("spectra", plots.spectra(columns)), ("landscapes", plots.landscapes(surfaces))]:
        with results.replacing(options.output / f"sharp_and_flat_{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    return runs


if __name__ == "__main__":
    main()
