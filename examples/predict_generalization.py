"""Figure 3, right, on one CPU: m-sharpness as a predictor of the generalization gap, for several m.

```
python examples/predict_generalization.py
```

Sixteen small networks that differ in width, batch size, weight decay and learning rate learn 256 digits. Their
m-sharpness on these is held against their gap, training accuracy less test accuracy. Writes
`predict_generalization.json` and `.png`. About four minutes on one core. The paper's scores rise as m
falls; these, of so few networks, are all near 0.
"""

import argparse
import itertools
from pathlib import Path

import keras

import keras_sam
from keras_sam import sharpness
from keras_sam.experiments import results
from keras_sam.experiments.data import digits
from keras_sam.experiments.models.small_cnn import small_cnn
from keras_sam.sharpness import plots

GRID = {"width": (8, 16), "batch_size": (32, 128), "weight_decay": (0.0, 1e-3), "learning_rate": (0.02, 0.1)}
MS = (1, 4, 16, 64, 256)
RHOS = (0.01, 0.05)
NUM_IMAGES = 256


def train(width, batch_size, weight_decay, learning_rate, epochs):
    """A model trained by SGD, its training data, and its gap."""
    train, _, test = digits.load()
    train = digits.Split(train.x[:NUM_IMAGES], train.y[:NUM_IMAGES])
    keras.utils.set_random_seed(0)
    model = small_cnn(keras_sam.SAMModel, train.x.shape[1:], 10, weight_decay, width)
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=None,
    )
    # As many steps for each.
    model.fit(train.x, train.y, batch_size, epochs * batch_size // 32, verbose=0)
    accuracies = [model.evaluate(*part, batch_size=800, verbose=0)[1] for part in (train, test)]
    return model, train, accuracies[0] - accuracies[1]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="on which sharpness is measured")
    parser.add_argument("--output", type=Path, default=Path("results"))
    options = parser.parse_args(argv)

    models = []
    for values in itertools.product(*GRID.values()):
        settings = dict(zip(GRID, values))
        model, data, gap = train(**settings, epochs=options.epochs)
        few = data.x[: options.images], data.y[: options.images]
        measured = {
            m: sharpness.sharpness(model, few, list(RHOS), m, batch_size=options.images, verbose=0).loss.tolist()
            for m in MS
        }
        models.append({**settings, "gap": gap, "sharpness": measured})
        print(f"{settings}  gap {gap:.1%}  sharpness {measured[MS[0]][0]:.3g} … {measured[MS[-1]][0]:.3g}", flush=True)
    gaps = [one["gap"] for one in models]
    hyperparameters = {name: [one[name] for one in models] for name in GRID}
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
    options.output.mkdir(parents=True, exist_ok=True)
    content = {**results.provenance(), "epochs": options.epochs, "scores": scores, "models": models}
    results.write_json(options.output / "predict_generalization.json", content)
    with results.replacing(options.output / "predict_generalization.png") as temporary:
        plots.predictive_power(scores).savefig(temporary, format="png", dpi=110)
    return scores


if __name__ == "__main__":
    main()
