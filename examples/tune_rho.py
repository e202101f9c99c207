"""Choose ρ by validation accuracy, with KerasTuner.

```
pip install keras-tuner tensorboard scikit-learn
python examples/tune_rho.py
```

Digits of scikit-learn, 40 % of the training labels drawn anew, the validation labels clean. Each ρ trains the same net
from the same seed, so that the trials differ in ρ alone. About a minute on two CPU cores.
"""

import argparse

import keras
import keras_tuner
from keras import layers

import keras_sam
from keras_sam.experiments.data import digits


def build(hp):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for _ in range(3):
        x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    model = keras_sam.SAMModel(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=keras_sam.SAM(rho=hp.Choice("rho", [0.05, 0.1, 0.2, 0.5])),
    )
    return model


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", default="tune_rho", help="where KerasTuner keeps its trials")
    options = parser.parse_args(argv)

    train, validation, test = digits.load(noise=0.4)
    tuner = keras_tuner.GridSearch(build, objective="val_accuracy", directory=options.folder, overwrite=True)
    fit = {"batch_size": 128, "epochs": options.epochs, "verbose": 0}
    tuner.search(train.x, train.y, validation_data=(validation.x, validation.y), **fit)
    best = tuner.get_best_hyperparameters()[0]

    # The trial kept the weights of its best epoch; this is the last one, which is what a run without clean labels has.
    model = build(best)
    model.fit(train.x, train.y, **fit)
    _, accuracy = model.evaluate(test.x, test.y, verbose=0)
    print(f"rho = {best['rho']}, test accuracy {accuracy:.1%}")
    return best["rho"], accuracy


if __name__ == "__main__":
    main()
