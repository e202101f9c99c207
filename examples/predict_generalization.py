"""Figure 3, right, on one CPU: m-sharpness as a predictor of the generalization gap, for several m.

```
python examples/predict_generalization.py
```

Sixteen small networks that differ in width, batch size, weight decay and learning rate learn 256 digits. Their
m-sharpness on these is held against their gap, training accuracy less test accuracy. Writes
`predict_generalization.json` and `.png`. About four minutes on one core. The paper's scores rise as m
falls; these, of so few networks, are all near 0.

`--case fashion` is a larger grid: three values of each, 81 networks, which learn 256 images of Fashion-MNIST at 14 × 14
pixels, where the gap is larger. Its files begin with `predict_generalization_fashion`.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras

import keras_sam
from keras_sam import sharpness
from keras_sam.experiments import results
from keras_sam.experiments.data import digits, fashion_mnist
from keras_sam.experiments.data.splits import Split
from keras_sam.experiments.models.small_cnn import small_cnn
from keras_sam.sharpness import plots

NUM_IMAGES = 256
MS = (1, 4, 16, 64, 256)
RHOS = (0.01, 0.05)


class Case(NamedTuple):
    """What is learned, and by which networks.

    Args:
        load: Function to the training and the test `Split`.
        grid: Dict from hyperparameters to the values that are tried, each with each.
        epochs: Int, with batches of 32; as many steps with others.
    """

    load: Callable
    grid: dict
    epochs: int


def load_digits():
    train, _, test = digits.load()
    return Split(train.x[:NUM_IMAGES], train.y[:NUM_IMAGES]), test


def load_fashion():
    """Images of half the height and width, each pixel the mean of four."""
    train, _, test = fashion_mnist.load(num_train=NUM_IMAGES)
    return tuple(Split(x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)), y) for x, y in (train, test))


CASES = {
    "digits": Case(
        load_digits,
        {"width": (8, 16), "batch_size": (32, 128), "weight_decay": (0.0, 1e-3), "learning_rate": (0.02, 0.1)},
        epochs=60,
    ),
    "fashion": Case(
        load_fashion,
        {
            "width": (8, 16, 32),
            "batch_size": (16, 32, 64),
            "weight_decay": (0.0, 5e-4, 2e-3),
            "learning_rate": (0.02, 0.05, 0.1),
        },
        epochs=150,
    ),
}


def train(data, test, epochs, width, batch_size, weight_decay, learning_rate):
    """A model trained by SGD; its training loss, and its gap."""
    keras.utils.set_random_seed(0)
    model = small_cnn(keras_sam.SAMModel, data.x.shape[1:], 10, weight_decay, width)
    epochs = max(1, epochs * batch_size // 32)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * -(-len(data.y) // batch_size))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=None,
    )
    model.fit(data.x, data.y, batch_size, epochs, verbose=0)
    (loss, accuracy), (_, test_accuracy) = (model.evaluate(*part, 800, verbose=0) for part in (data, test))
    return model, loss, accuracy - test_accuracy


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--epochs", type=int, help="with batches of 32; as many steps with others")
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="on which sharpness is measured")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args(argv)
    stem = "predict_generalization" + ("" if options.case == "digits" else f"_{options.case}")
    path = options.output / f"{stem}.json"
    if path.exists():
        parser.error(f"{path} is there, and no result is overwritten: give another --output.")
    options.output.mkdir(parents=True, exist_ok=True)

    load, grid, epochs = CASES[options.case]
    epochs = options.epochs or epochs
    data, test = load()
    few = Split(*(part[: options.images] for part in data))
    models = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values))
        model, loss, gap = train(data, test, epochs, **settings)
        measured = {
            m: sharpness.sharpness(model, few, list(RHOS), m, batch_size=len(few.y), verbose=0).loss.tolist()
            for m in MS
        }
        models.append({**settings, "loss": loss, "gap": gap, "sharpness": measured})
        print(f"{settings}  gap {gap:.1%}  sharpness {measured[MS[0]][0]:.3g} … {measured[MS[-1]][0]:.3g}", flush=True)
    gaps = [one["gap"] for one in models]
    hyperparameters = {name: [one[name] for one in models] for name in grid}
    scores = {
        f"ρ = {rho:g}": (
            MS,
            [
                sharpness.generalization_score([one["sharpness"][m][i] for one in models], gaps, hyperparameters)
                for m in MS
            ],
        )
        for i, rho in enumerate(RHOS)
    }
    for name, (_, values) in scores.items():
        print(name, "  ".join(f"m = {m}: {value:.3f}" for m, value in zip(MS, values)))
    content = {**results.provenance(), "epochs": epochs, "scores": scores, "models": models}
    results.write_json(path, content)
    with results.replacing(path.with_suffix(".png")) as temporary:
        plots.predictive_power(scores).savefig(temporary, format="png", dpi=110)
    return scores


if __name__ == "__main__":
    main()
