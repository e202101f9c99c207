"""Trainings that tests run in processes of their own, on one host or more."""

import json
import multiprocessing
import os
import resource
import signal
import socket
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_sam


def net(cls, dropout=0.3):
    inputs = keras.Input((3,))
    x = layers.Dense(8, "tanh", kernel_regularizer="l2")(inputs)
    x = layers.Dropout(dropout, seed=1)(layers.BatchNormalization()(x))
    return cls(inputs, layers.Dense(2)(x))


def data(rows):
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 3)).astype("float32"), random.normal(size=(rows, 2)).astype("float32")


def compiled(strategy, cls=keras_sam.SAMModel, dropout=0.3, **options):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = net(cls, dropout)
        model.compile(keras.optimizers.AdamW(0.01), "mse", metrics=["mae"], **options)
    return model


def variables(model):
    """By number, since the names of layers count up in a process."""
    return {str(i): v.numpy() for i, v in enumerate([*model.variables, *model.optimizer.variables])}


def fitted(strategy, cls=keras_sam.SAMModel, rows=25, **options):
    """What two epochs of batches of 4 leave behind, as a dict of arrays."""
    model = compiled(strategy, cls, **options)
    x, y = data(rows)
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, validation_data=(x, y), verbose=0).history
    result = {name: np.array(values) for name, values in history.items()}
    return {**result, **variables(model)}


# A rule that keeps a state, with steps that leave a replica idle; and without SAM.
TRAININGS = {
    "friendly": {"sam": keras_sam.FriendlySAM(0.1), "steps_per_execution": 3},
    "none": {"sam": None, "rows": 26},
}


def training(strategy, folder):
    save(strategy, folder, {name: fitted(strategy, **options) for name, options in TRAININGS.items()})


class Fault(keras.callbacks.Callback):
    """Befalls this process after a batch of an epoch."""

    def __init__(self, how, epoch, batch):
        super().__init__()
        self.how, self.at = how, (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            if self.how == "full disk":
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            else:
                os.kill(os.getpid(), getattr(signal, self.how))


def backed_up(strategy, folder, *callbacks, dropout=0.3):
    """Three epochs of 7 steps, with a backup after each 3 steps."""
    model = compiled(strategy, dropout=dropout, sam=keras_sam.FriendlySAM(0.1))
    x, y = data(28)
    backup = [] if folder is None else [keras_sam.callbacks.BackupAndRestore(os.path.join(folder, "backup"), 3)]
    model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[*backup, *callbacks])
    return variables(model)


def faulty(strategy, folder, fault=None, task=0, dropout=0.3):
    callbacks = [keras.callbacks.ModelCheckpoint(os.path.join(folder, "model.keras"))]
    if fault and task == task_of(strategy):
        callbacks.append(Fault(*fault))
    save(strategy, folder, {"result": backed_up(strategy, folder, *callbacks, dropout=dropout)})


def disagreeing(strategy, folder):
    """What `fit` says on this host."""
    task = task_of(strategy)
    said = {}
    for name, sam, seed in [("rule", keras_sam.SAM(0.1 * (task + 1)), 1), ("seed", keras_sam.SAM(0.1), task)]:
        model = compiled(strategy, sam=sam)
        keras.utils.set_random_seed(seed)
        said[name] = error_of(model)
    model = compiled(strategy)
    model.trainable_variables[0].assign(np.full((3, 8), task))
    keras.utils.clear_session()  # which forgets the seed
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said["weights"] = error_of(model)
    said["unseeded"] = " ".join(str(warning.message) for warning in caught)
    with open(os.path.join(folder, f"said-{task}.json"), "w") as file:
        json.dump(said, file)
    # A host that ends aborts what another one may still be gathering.
    while not all(os.path.exists(os.path.join(folder, f"said-{other}.json")) for other in (0, 1)):
        time.sleep(0.1)


def error_of(model):
    x, y = data(8)
    try:
        model.fit(x, y, batch_size=4, verbose=0)
    except ValueError as error:
        return str(error)


def task_of(strategy):
    return strategy.cluster_resolver.task_id if "TF_CONFIG" in os.environ else 0


def save(strategy, folder, results):
    for name, result in results.items():
        np.savez(os.path.join(folder, f"{name}-{task_of(strategy)}.npz"), **result)


def start(name, folder, hosts=1, replicas=1, **arguments):
    """A process for each host that runs a function of this file; its output is in `NAME-TASK.log`."""
    ports = []
    for _ in range(hosts):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    # Forked from a process that has imported TensorFlow and not begun to use it, which saves most of their time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hosts"])
    processes = []
    for task in range(hosts):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": task}}) if hosts > 1 else None
        log = os.path.join(folder, f"{name}-{task}.log")
        processes.append(context.Process(target=_run, args=(name, str(folder), log, config, replicas, arguments)))
        processes[-1].start()
    return processes


def _run(name, folder, log, config, replicas, arguments):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if config is not None:
        os.environ["TF_CONFIG"] = config
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    else:
        strategy = tf.distribute.get_strategy()
    globals()[name](strategy, folder, **arguments)


def code_of(process, seconds=120):
    """How it ended, or a failure where it did not."""
    process.join(seconds)
    assert process.exitcode is not None, f"{process} goes on after {seconds} seconds"
    return process.exitcode
