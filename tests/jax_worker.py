"""What a process of test_jax_processes.py runs: `python jax_worker.py '{"task": …}'` prints a result in JSON."""

import json
import os
import pathlib
import re
import sys

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
import reference

import keras_sam

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "distribution.md"
RULE = {"rho": 0.1, "sigma": 0.5, "decay": 0.75}


def data():
    random = np.random.default_rng(0)
    return [random.normal(size=(40, columns)).astype("float32") for columns in (3, 2)]


def model_of(rule, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    x = keras.layers.Dense(4, "tanh")(inputs)
    model = keras_sam.SAMModel(inputs, keras.layers.Dense(2)(x))
    model.compile(keras.optimizers.SGD(0.125, momentum=0.75), "mse", sam=rule)
    return model


class Signal(keras.callbacks.Callback):
    """Sends this process a signal in the middle of the second epoch."""

    def __init__(self, number):
        super().__init__()
        self.number, self.epoch = number, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 3):
            os.kill(os.getpid(), self.number)


def share(array):
    """This process's rows of each batch of 8."""
    here, everyone = jax.process_index(), jax.process_count()
    return np.concatenate([np.split(batch, everyone)[here] for batch in np.split(array, 5)])


def train(rule, folder=None, epochs=3, number=None, seed=0, **backup):
    """The values of all variables after training that is backed up in a folder and taken up from there."""
    model, (x, y) = model_of(rule, seed), map(share, data())
    # The signal comes a batch after the last backup.
    callbacks = None if folder is None else [keras_sam.callbacks.BackupAndRestore(folder, save_freq=3, **backup)]
    if number is not None:
        callbacks.append(Signal(number))
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}
    model.fit(x, y, batch_size=8 // jax.process_count(), callbacks=callbacks, **options)
    return model, [np.array(v.value) for v in model.variables + model.optimizer.variables]


def interrupted(folder, number=None):
    train(keras_sam.FriendlySAM(**RULE), folder, number=number)


def resumed(folder):
    """What is compared are lists of numbers, since float32 goes through JSON unchanged."""
    rule = keras_sam.FriendlySAM(**RULE)
    _, taken_up = train(rule, folder, delete_checkpoint=False)
    _, uncut = train(rule, f"{folder}-of-uncut")
    return {"taken up": [a.tolist() for a in taken_up], "uncut": [a.tolist() for a in uncut]}


def agreement(folder):
    """The error of reference.py's weights; what is said of disagreements; which files this process writes."""
    weights = [np.array(v.value) for v in model_of(None).trainable_variables]
    model, _ = train(keras_sam.SAM(0.125), epochs=1)
    batches = list(zip(*(np.split(a, 5) for a in data())))
    expected = reference.train(weights, batches, 0.125, 0.125, 0.75, num_replicas=2)
    errors = [np.abs(np.array(v.value) - w).max() for v, w in zip(model.trainable_variables, expected, strict=True)]
    messages = []
    for arguments in (
        {"rule": keras_sam.SAM([0.2, 0.1][jax.process_index()])},
        {"rule": "sam", "seed": jax.process_index()},
    ):
        try:
            train(**arguments)
        except (ValueError, AssertionError) as error:
            messages.append(str(error))
    own = pathlib.Path(folder, str(jax.process_index()))
    own.mkdir()
    model.save(own / "model.keras")
    model.save_weights(own / "model.weights.h5")
    return {"error": float(max(errors)), "messages": messages, "files": sorted(p.name for p in own.iterdir())}


def main(task, folder, port=None, process=0, number=None):
    if port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # What the page on distribution tells a reader to type, with its heartbeat of 10 seconds.
        _, hosts = re.findall(r"```python\n(.*?)```", PAGE.read_text().partition("## JAX")[2], re.DOTALL)
        exec(hosts.replace("host0:1234", f"127.0.0.1:{port}"), {"jax": jax, "keras": keras, "i": process})
    if task == "interrupted":
        interrupted(folder, number)
        return
    print("RESULT", json.dumps({"resumed": resumed(folder), "agreement": agreement(folder)}), flush=True)


if __name__ == "__main__":
    # Keras looks at whether data are TensorFlow's, whose import takes longer than all the rest.
    sys.modules["tensorflow"] = None
    main(**json.loads(sys.argv[1]))
