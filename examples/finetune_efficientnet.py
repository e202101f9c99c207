"""Fine-tune a pretrained EfficientNet with SAM: `python examples/finetune_efficientnet.py`.

EfficientNet-Lite0 with its ImageNet weights (a Python package, of the extra `weights`, carries them) learns
Fashion-MNIST (of Debian's package `dataset-fashion-mnist`, or its four gz files in a folder that FASHION_MNIST names)
from 2,000 images at 64 pixels: a new head, BatchNormalization's statistics frozen as in appendix C.2 of the paper, SGD
with momentum, half a cosine, and gradients clipped as in the paper's code. SGD gets as many steps and twice as many,
which cost what SAM's cost. ρ is chosen on validation images with clean labels, with a seed that does not count.
`--noise 0.4` draws 40 % of the labels anew. With frozen statistics this network is sharp: at 0.05 and more, as most
of table 8, most trials fell to chance within a few epochs, so that a tenth of them is tried.

Writes `finetune_efficientnet.json` after every run, 18 of them for five seeds, and goes on where it was interrupted.
For EfficientNet-B7 with Keras's own weights on a GPU see `keras-sam run table3 --row efficientnet-b7/cars196 --method
sam --download`.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import ops

import keras_sam
from keras_sam.experiments import results
from keras_sam.experiments.data import fashion_mnist
from keras_sam.experiments.models.efficientnet_lite import efficientnet_lite
from keras_sam.experiments.models.frozen_statistics import freeze_statistics
from keras_sam.experiments.statistics import percent

# The paper's learning rate is 0.016, for batches of 1,024.
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, CHOOSING_SEED = 64, 0.002, 1e-5, 100


def images(x, size):
    """Gray pictures in [0, 1] as what the network was trained on: three channels in [0, 255], larger."""
    x = ops.repeat(ops.convert_to_tensor(255 * x), 3, axis=-1)
    return ops.convert_to_numpy(ops.image.resize(x, (size, size), interpolation="bilinear"))


def train(rule, epochs, seed, noise, num_images, size, num_tested, weights="imagenet", **options):
    """Accuracies of one run: of the last epoch's training, on the labels that it was given; validation; and test."""
    train, validation, test = fashion_mnist.load(noise, seed, num_images)
    keras.utils.set_random_seed(seed)
    network = efficientnet_lite(keras.Model, (size, size, 3), 10, weights=weights, **options)
    model = keras_sam.SAMModel.from_model(freeze_statistics(network))
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(WEIGHT_DECAY / 2)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * -(-num_images // BATCH_SIZE))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, global_clipnorm=5.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=rule,
    )
    history = model.fit(images(train.x, size), train.y, BATCH_SIZE, epochs, verbose=0).history
    accuracies = {"training": history["accuracy"][-1]}
    for name, split, count in [("validation", validation, 1000), ("test", test, num_tested)]:
        x = images(split.x[:count], size)
        accuracies[name] = model.evaluate(x, split.y[:count], BATCH_SIZE, verbose=0, return_dict=True)["accuracy"]
    return accuracies


def main(argv=None, **options):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--noise", type=float, default=0.0, help="share of training labels drawn anew")
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    parser.add_argument("--tested", type=int, default=10000, help="test images")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--epochs", type=int, default=10, help="of SAM; SGD gets as many, and twice as many")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.005, 0.01, 0.02], help="to choose from")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("."), help="folder of the results")
    args = parser.parse_args(argv)
    path = args.output / f"finetune_efficientnet{f'_noise_{args.noise:g}' if args.noise else ''}.json"
    settings = {"noise": args.noise, "images": args.images, "size": args.size, "epochs": args.epochs}
    settings["tested"] = args.tested
    content = results.read_json(path) if path.exists() else {"settings": settings, "runs": {}}
    backend = keras.backend.backend()
    if (content["settings"], content.get("backend", backend)) != (settings, backend):
        there = f"{content['settings']} on {content.get('backend')}"
        parser.error(f"{path} is of other settings or another backend, {there}; give another --output.")
    args.output.mkdir(parents=True, exist_ok=True)

    def run(name, rule, epochs, seed):
        key = f"{name} | seed={seed}"
        if key not in content["runs"]:
            numbers = train(rule, epochs, seed, args.noise, args.images, args.size, args.tested, **options)
            content["runs"][key] = {**numbers, "commit": results.COMMIT}
            results.write_json(path, {**content, **results.provenance()})
            print(f"{key:30} test accuracy {numbers['test']:.2%}", flush=True)
        return content["runs"][key]

    sam = {rho: (f"SAM, rho={rho:g}", keras_sam.SAM(rho), args.epochs) for rho in args.rho}
    best = max(args.rho, key=lambda rho: run(*sam[rho], CHOOSING_SEED)["validation"])
    methods = ("SGD", None, args.epochs), ("SGD, 2x steps", None, 2 * args.epochs), sam[best]
    found = {method[0]: [run(*method, seed)["test"] for seed in range(args.seeds)] for method in methods}
    for name, accuracies in found.items():
        print(f"{name}{' by validation' if name.startswith('SAM') else ''}: {percent(accuracies)} %")
    *sgd, sam = found.values()
    better = max(sgd, key=np.mean)
    print(f"Paired by seed, SAM is ahead of the better SGD by {percent(np.subtract(sam, better))} points.")
    return found


if __name__ == "__main__":
    main()
