"""Trainings that tests run in processes of their own, on one host or several: `python hosts.py NAME FOLDER …`."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_sam


def net(cls):
    inputs = keras.Input((3,))
    x = layers.Dense(8, "tanh", kernel_regularizer="l2")(inputs)
    x = layers.Dropout(0.3, seed=1)(layers.BatchNormalization()(x))
    return cls(inputs, layers.Dense(2)(x))


def data(rows):
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 3)).astype("float32"), random.normal(size=(rows, 2)).astype("float32")


def compiled(strategy, cls=keras_sam.SAMModel, **options):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = net(cls)
        model.compile(keras.optimizers.AdamW(0.01), "mse", metrics=["mae"], **options)
    return model


def fitted(strategy, cls=keras_sam.SAMModel, rows=25, **options):
    """All that two epochs leave behind, as a dict of arrays; batches of 4."""
    model = compiled(strategy, cls, **options)
    x, y = data(rows)
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, validation_data=(x, y), verbose=0).history
    result = {name: np.array(values) for name, values in history.items()}
    result["evaluate"] = np.array(model.evaluate(x, y, batch_size=4, verbose=0))
    return {**result, **variables(model)}


def variables(model):
    names = [v.path for v in [*model.variables, *model.optimizer.variables]]
    return {str(i): v.numpy() for i, v in zip(range(len(names)), [*model.variables, *model.optimizer.variables])}


def training(strategy, folder):
    """A rule with state and an idle replica; plain Keras, which fails on several hosts."""
    results = {
        "friendly": fitted(strategy, sam=keras_sam.FriendlySAM(0.1), steps_per_execution=3),
        "none": fitted(strategy, rows=26, sam=None),
    }
    return results


def start(name, folder, tasks=1, **arguments):
    """A process for each host; `name` is a function of this file."""
    ports = []
    for _ in range(tasks):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(tasks):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        if tasks > 1:
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, __file__, name, str(folder), json.dumps(arguments)]
        log = open(folder / f"{name}-{index}.log", "w")  # noqa: SIM115
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    return processes


if __name__ == "__main__":
    _, name, folder, arguments = sys.argv
    several = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    task = strategy.cluster_resolver.task_id if several else 0
    for key, result in globals()[name](strategy, folder, **json.loads(arguments)).items():
        np.savez(os.path.join(folder, f"{key}-{task}.npz"), **result)
