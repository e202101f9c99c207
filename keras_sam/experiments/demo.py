"""Section 3.3 of the paper in three minutes: SGD memorises wrong labels, SAM much less.

Command: `keras-sam demo`. Of the 1,000 training digits 232 are held out with clean labels, to choose ρ and to stop
early by; 60 % of the labels of the other 768 are drawn anew. SGD gets the epochs of SAM and twice as many, which costs
what SAM costs.
"""

import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import keras_sam
from keras_sam import backend
from keras_sam.experiments import plots, results
from keras_sam.experiments.data import digits
from keras_sam.experiments.models.small_cnn import small_cnn
from keras_sam.experiments.statistics import mean_and_interval, percent

RHOS = (0.2, 0.5)
BATCH_SIZE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.1, 0.9, 5e-4
# Sharpness is compared at one radius for all methods, on so many training images, so many times a run.
MEASURED_RHO, MEASURED_IMAGES, MEASUREMENTS = 0.2, 256, 20


def run(seeds, noise, epochs, output, console=None):
    """Train, print the table, write `demo.json` and `demo.png`; returns what the JSON holds."""
    console = console or Console()
    start = time.monotonic()
    methods = {"SGD": (None, epochs), "SGD, 2x epochs": (None, 2 * epochs)}
    methods |= {f"SAM, rho={rho}": (rho, epochs) for rho in RHOS}
    histories = {name: [] for name in methods}
    with _progress(console) as progress:
        task = progress.add_task("", total=seeds * sum(e for _, e in methods.values()))
        for seed in range(seeds):
            for name, (rho, num_epochs) in methods.items():
                progress.update(task, description=f"seed {seed}  {name}")
                history = train(rho, num_epochs, noise, seed, on_epoch=lambda: progress.advance(task))
                histories[name].append(history)
                console.print(f"seed {seed}  {name:16}  test accuracy {history['test_accuracy'][-1]:6.1%}")
    summary = summarize(histories)
    console.print(_table(summary, noise, seeds), _reading(summary), sep="\n")
    content = {
        **results.provenance(),
        "settings": {"seeds": list(range(seeds)), "noise": noise, "epochs": epochs, "rhos": RHOS},
        "seconds": round(time.monotonic() - start, 1),
        "summary": summary,
        "histories": histories,
    }
    results.write_json(Path(output) / "demo.json", content)
    with results.replacing(Path(output) / "demo.png") as temporary:
        figure = plots.demo(histories["SGD, 2x epochs"], histories[summary["sam"]], noise, MEASURED_RHO)
        figure.savefig(temporary, format="png", dpi=160)
    console.print(f"\nWrote {Path(output) / 'demo.png'} and {Path(output) / 'demo.json'} ({content['seconds']:.0f} s).")
    return content


def train(rho, epochs, noise, seed, on_epoch=lambda: None):
    """One run: `fit` with SAM of radius `rho`, or with plain SGD for `None`; returns its numbers by epoch."""
    train, validation, test = digits.load(noise, seed)
    keras.utils.set_random_seed(seed)
    model = small_cnn(keras_sam.SAMModel, train.x.shape[1:], 10, WEIGHT_DECAY)
    steps = epochs * -(-len(train.x) // BATCH_SIZE)
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=None if rho is None else keras_sam.SAM(rho),
        # For so small a net XLA keeps both cores busy, and TensorFlow's own convolutions one; torch's compiler takes
        # longer than the training.
        jit_compile=keras.backend.backend() != "torch",
    )
    record = Record(train, validation, test, every=max(1, epochs // MEASUREMENTS), on_epoch=on_epoch)
    fitted = model.fit(train.x, train.y, BATCH_SIZE, epochs, verbose=0, callbacks=[record]).history
    gradients_an_epoch = 1 if rho is None else 2
    gradients = [gradients_an_epoch * epoch for epoch in range(1, epochs + 1)]
    return {
        "gradients": gradients,
        "train_loss": fitted["loss"],
        "train_accuracy": fitted["accuracy"],
        **record.history,
    }


class Record(keras.callbacks.Callback):
    """Accuracy on validation and test data each epoch, and the sharpness of the training loss every few."""

    def __init__(self, train, validation, test, every, on_epoch):
        super().__init__()
        self.measured = digits.Split(train.x[:MEASURED_IMAGES], train.y[:MEASURED_IMAGES])
        self.every, self.on_epoch = every, on_epoch
        self.splits = {"validation_accuracy": validation, "test_accuracy": test}
        self.history = {"validation_accuracy": [], "test_accuracy": [], "sharpness": []}

    def on_epoch_end(self, epoch, logs=None):
        for name, split in self.splits.items():
            predicted = np.argmax(self.model.predict_on_batch(split.x), axis=-1)
            self.history[name].append(float(np.mean(predicted == split.y)))
        last = epoch + 1 == self.params["epochs"]
        measured = sharpness(self.model, self.measured, MEASURED_RHO) if last or epoch % self.every == 0 else None
        self.history["sharpness"].append(measured)
        self.on_epoch()


def sharpness(model, split, rho):
    """L(w + ε̂) − L(w) of the cross-entropy on a split, BatchNormalization in inference mode."""
    x, y = ops.convert_to_tensor(split.x), ops.convert_to_tensor(split.y)

    def loss(weights):
        logits, _ = model.stateless_call(weights, model.non_trainable_variables, x, training=False)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))

    rule, weights = keras_sam.SAM(rho), [ops.convert_to_tensor(v) for v in model.trainable_variables]
    clean, gradient = backend.value_and_grad(loss)(weights)
    epsilon = rule.ascend(weights, gradient, rule.step(0))
    return float(ops.stop_gradient(loss([w + e for w, e in zip(weights, epsilon)])) - clean)


def summarize(histories):
    """Which run stands for SGD and which for SAM, and every method's accuracy.

    Of SGD the better on test data counts, as in the paper. SAM's ρ, and the epoch to stop at, are chosen by clean
    validation labels.
    """
    final = {name: [h["test_accuracy"][-1] for h in runs] for name, runs in histories.items()}
    validation = {name: np.mean([h["validation_accuracy"][-1] for h in runs]) for name, runs in histories.items()}
    best = {name: [int(np.argmax(h["validation_accuracy"])) for h in runs] for name, runs in histories.items()}
    stopped = {name: [h["test_accuracy"][e] for h, e in zip(runs, best[name])] for name, runs in histories.items()}
    at_best = {name: np.mean([max(h["validation_accuracy"]) for h in runs]) for name, runs in histories.items()}
    sgd, sam = ([name for name in histories if name.startswith(kind)] for kind in ("SGD", "SAM"))
    return {
        "sgd": max(sgd, key=lambda name: np.mean(final[name])),
        "sgd_stopped": max(sgd, key=at_best.get),
        "sam": max(sam, key=validation.get),
        "final_test_accuracy": final,
        "test_accuracy_at_best_validation": stopped,
    }


def _rows(summary):
    final, stopped = summary["final_test_accuracy"], summary["test_accuracy_at_best_validation"]
    yield from ((f"{name}, last epoch", final[name]) for name in final if name.startswith("SGD"))
    yield f"{summary['sgd_stopped']}, stopped early on clean validation labels", stopped[summary["sgd_stopped"]]
    yield f"{summary['sam']} (chosen on validation), last epoch", final[summary["sam"]]


def _table(summary, noise, seeds):
    table = Table(
        title=f"Digits, {noise:.0%} of the training labels drawn anew, {seeds} seeds",
        caption="Trained on 768 images; 232 more, with clean labels, chose ρ and the epoch to stop at; tested on 797.",
    )
    table.add_column("Method")
    table.add_column("Test accuracy (%), mean ± 95 % CI", justify="right")
    for name, values in _rows(summary):
        table.add_row(name, percent(values))
    return table


def _reading(summary):
    """What the numbers say of SAM against each baseline, paired by seed; a lead inside its interval is called one."""
    sam = np.array(summary["final_test_accuracy"][summary["sam"]])
    baselines = {
        f"the better of SGD's last epochs ({summary['sgd']})": summary["final_test_accuracy"][summary["sgd"]],
        "SGD stopped early": summary["test_accuracy_at_best_validation"][summary["sgd_stopped"]],
    }
    sentences = []
    for name, values in baselines.items():
        lead = sam - values
        mean, interval = mean_and_interval(lead)
        place = "above" if mean > 0 else "not above"
        settled = len(lead) > 1 and abs(mean) > interval
        doubt = "" if settled else f", which {len(lead)} seed{'s do' if len(lead) > 1 else ' does'} not settle"
        sentences.append(f"SAM is {place} {name}: by {percent(lead)} points{doubt}.")
    return "\n".join(sentences)


def _progress(console):
    percentage = TextColumn("{task.percentage:>3.0f} %")
    columns = TextColumn("{task.description:24}"), BarColumn(), percentage, TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)
