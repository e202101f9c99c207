"""Training of a recipe with one method and one seed, and what it is fed."""

import math
import sys

import keras
import numpy as np

import keras_sam
from keras_sam.callbacks import NAMES, InnerMaximization
from keras_sam.experiments import strategies
from keras_sam.experiments.checkpoints import Checkpoint, RandomStateByEpoch
from keras_sam.experiments.data import pipelines
from keras_sam.experiments.models import NETWORKS
from keras_sam.experiments.models.frozen_statistics import freeze_statistics

# The weights of the epoch with the best validation accuracy.
BEST = "best.weights.h5"
# How many batches of an epoch the measures are taken on.
MEASURED_BATCHES = 8


def train(row, method, splits, seed, folder):
    """Train, or go on from the checkpoint in `folder`.

    Args:
        row: `Row`.
        method: `Method`, one of its.
        splits: `Data`.
        seed: Int.
        folder: Folder of this training alone.

    Returns:
        The model; and its history, a dict from names to lists of floats, one an epoch.
    """
    keras.utils.set_random_seed(seed % 2**32)
    checkpoint = Checkpoint(folder)
    steps_per_epoch, epochs = length(row, method, splits)
    for split in (splits.validation or splits.test, *([splits.train] if method.bootstrap else [])):
        strategies.check_shares(pipelines.num_examples(split), row.batch_size)
    model = build(row, method, splits, steps_per_epoch * epochs)
    training = training_data(row, method, splits, seed, checkpoint.epoch * steps_per_epoch)
    callbacks = [RandomStateByEpoch(seed), keras.callbacks.TerminateOnNaN()]
    if row.measures and method.rule is not None:
        first = training_data(row, method, splits, seed).take(MEASURED_BATCHES)
        arrays = tuple(np.concatenate(part) for part in zip(*first.as_numpy_iterator()))
        callbacks.append(InnerMaximization(arrays, method.rule, row.measures, row.batch_size))
    if method.stop_early:
        best = max(checkpoint.history.get("val_accuracy", []), default=None)
        options = {"monitor": "val_accuracy", "mode": "max", "save_best_only": True, "save_weights_only": True}
        callbacks.append(keras.callbacks.ModelCheckpoint(folder / BEST, initial_value_threshold=best, **options))
    # A run that diverged had ended, where it was taken up again after that.
    diverged = bool(checkpoint.epoch) and not math.isfinite(checkpoint.history["loss"][-1])
    model.fit(
        training,
        epochs=checkpoint.epoch if diverged else epochs,
        initial_epoch=checkpoint.epoch,
        steps_per_epoch=steps_per_epoch,
        validation_data=evaluation_data(row, method, splits),
        shuffle=False,
        callbacks=[*callbacks, keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False), checkpoint],
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    return model, checkpoint.history


def length(row, method, splits):
    """Steps of an epoch, and epochs; where a recipe counts steps, a twentieth of them is an epoch."""
    if row.epochs:
        return pipelines.num_steps(splits.train, row.batch_size), round(method.epochs * row.epochs)
    steps = round(method.epochs * row.steps)
    steps_per_epoch = max(1, steps // 20)
    return steps_per_epoch, steps // steps_per_epoch


def build(row, method, splits, steps):
    """The compiled model: SGD with Nesterov's momentum, half a cosine, weight decay in the loss."""
    network = NETWORKS[row.network]
    shape = (row.image_size, row.image_size, 3) if row.image_size else splits.image_shape
    model = network.build(keras_sam.SAMModel, shape, splits.num_classes, **{**network.options, **row.options})
    if row.fine_tune:
        model = freeze_statistics(model)
    decay = keras.regularizers.L2(row.weight_decay / 2)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            variable.regularizer = decay
            # What the file of a model has of it.
            if hasattr(layer, f"{variable.name}_regularizer"):
                setattr(layer, f"{variable.name}_regularizer", decay)
    top5 = [_top5(one_hot(row, method))] if splits.num_classes > 100 else []
    schedule = keras.optimizers.schedules.CosineDecay(row.learning_rate, steps)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, global_clipnorm=row.clip_norm),
        _loss(row, method),
        metrics=["accuracy", *top5],
        sam=method.rule,
    )
    return model


def one_hot(row, method):
    return bool(method.mixup or row.label_smoothing)


def _loss(row, method):
    if one_hot(row, method):
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=row.label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _top5(one_hot):
    kind = keras.metrics.TopKCategoricalAccuracy if one_hot else keras.metrics.SparseTopKCategoricalAccuracy
    return kind(5, name="top5")


def training_data(row, method, splits, seed, start=0):
    """Batches without end, from the step `start` on."""
    options = {"image_size": row.image_size, "one_hot": one_hot(row, method), "mixup": method.mixup}
    return pipelines.pipeline(splits, row.batch_size, row.augmentation, seed=seed, start=start, **options)


def evaluation_data(row, method, splits):
    """What the error is measured on: the held-out part if there is one, else the test set."""
    options = {"image_size": row.image_size, "one_hot": one_hot(row, method)}
    return pipelines.evaluation(splits, splits.validation or splits.test, row.batch_size, **options)


def relabelled(model, row, splits):
    """The same images with the labels that the model predicts."""
    images = pipelines.evaluation(splits, splits.train, row.batch_size, image_size=row.image_size)
    logits = model.predict(images, verbose=0)
    return splits._replace(train=splits.train._replace(y=np.argmax(logits, -1)))


def stopped_early(model, row, method, splits, history, folder):
    """The numbers, by the names of the recipes, of the epoch with the best validation accuracy.

    Those of the test set are left out where `splits` is `None`.
    """
    best = int(np.argmax(history["val_accuracy"]))
    numbers = {
        "stopped_at_epoch": best + 1,
        "validation_error": 1 - history["val_accuracy"][best],
        "train_accuracy": history["accuracy"][best],
    }
    if splits is None:
        return numbers
    model.load_weights(folder / BEST)
    data = evaluation_data(row, method, splits._replace(validation=None))
    accuracy = model.evaluate(data, verbose=0, return_dict=True)["accuracy"]
    return {"test_error": 1 - accuracy, "test_accuracy": accuracy, **numbers}


def result(history, part):
    """The last epoch's numbers, by the names of the recipes."""
    last = {name: values[-1] for name, values in history.items()}
    numbers = {f"{part}_error": 1 - last["val_accuracy"], f"{part}_accuracy": last["val_accuracy"]}
    if "val_top5" in last:
        numbers["top5_error"] = 1 - last["val_top5"]
    measured = {name: last[name] for name in NAMES if name in last}
    return {**numbers, "train_accuracy": last["accuracy"], **measured}
