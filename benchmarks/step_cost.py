"""The time of one training step of each rule, in units of plain Keras's step.

```
python benchmarks/step_cost.py --output step_cost.json
```

ResNet-20 on one constant CIFAR-shaped batch of 64, SGD with momentum, through the train function that `fit` uses, so
that no input pipeline is measured. All variants live in one process and take turns in blocks of steps, in a new random
order each round; a ratio is the median over rounds of a variant's time per step over plain Keras's in the same round,
which cancels what the machine does besides. A block is timed as a whole, and is a multiple of 5 steps long, since some
rules work harder every fifth step. `cpu` is the same ratio in processor seconds, which other processes disturb less.

Cost: a minute a variant with `--rounds 10` on 2 idle CPU cores; on JAX 17 minutes for eleven variants and 5 rounds.
Expect SAM at 1.9 to 2.1 times the plain step and a constant ρ of 0 at 1.00: SAM is two gradients and one update, and
its norm takes about as long as the update that it saves.
"""

import argparse
import random
import statistics
import sys
import time
from typing import NamedTuple

import keras
import numpy as np
import report
from resnet import resnet

import keras_sam
from keras_sam import SAM

# Two gradients and one update; torch runs them without a compiler that would fuse what comes on top.
EXACT_LIMIT = 2.1 if keras.backend.backend() == "torch" else 2.0
# Small batches make poorer use of a processor, whatever the rule.
MICRO_BATCH_LIMIT = 1.1 * EXACT_LIMIT
# Of the rules that take SAM's gradient every k-th step.
K = 5


class Variant(NamedTuple):
    """A row of the benchmarks.

    Args:
        rule: What is passed to `compile(sam=…)`, or `None` for `keras.Model` itself.
        step_limit: Float, the most that a step may cost in units of the plain step, or `None`.
        memory_limit: Float, the most that the peak memory may exceed plain Keras's, in units of the weights' size.
    """

    rule: SAM | str | None
    step_limit: float | None = EXACT_LIMIT
    memory_limit: float | None = 2.2


def constant(value):
    """A schedule of one value, so that the step cannot know it beforehand."""
    return keras.optimizers.schedules.ExponentialDecay(value, decay_steps=1, decay_rate=1.0)


PLAIN = "keras.Model"
VARIANTS = {
    PLAIN: Variant(None, None, None),
    "SAM(rho=0.05)": Variant(SAM(rho=0.05)),
    "SAM(p=inf)": Variant(SAM(rho=1e-4, p="inf")),
    "SAM(rho=schedule)": Variant(SAM(rho=constant(0.05))),
    "SAM(rho=0)": Variant(SAM(rho=0.0), 1.05, 0.1),
    # Two micro-batches of the default batch, each two gradients of half of it; their sum is one more copy.
    "SAM(m=32)": Variant(SAM(rho=0.05, m=32), MICRO_BATCH_LIMIT, 3.3),
    # ε̂ is kept beside w + ε̂ until the next step of ascent.
    "SAM(ascent_steps=2)": Variant(SAM(rho=0.05, ascent_steps=2), 1.5 * EXACT_LIMIT, 3.3),
    "SAM(ascent_fraction=0.25)": Variant(SAM(rho=0.05, ascent_fraction=0.25), 1.45),
    "SAM(second_order)": Variant(SAM(rho=0.05, second_order=True), None, None),
    "SAM(where=…)": Variant(SAM(rho=0.05, where="(gamma|beta|bias)$")),
    "SAM(rho=EveryK)": Variant(SAM(rho=keras_sam.schedules.EveryK(0.05, K)), 1.3),
    # The scales of the weights are one more copy of them.
    "ASAM": Variant(keras_sam.ASAM(rho=0.5), 2.1, 3.3),
    # The gradient at w is kept until the other one is there; a state is one more copy of the weights.
    "GSAM": Variant(keras_sam.GSAM(rho=0.05), 2.1, 3.3),
    "FriendlySAM": Variant(keras_sam.FriendlySAM(rho=0.05), 2.1, 4.4),
    "LookSAM": Variant(keras_sam.LookSAM(rho=0.05, k=K), 1.3, 4.4),
    "MSAM": Variant(keras_sam.MSAM(rho=0.05), 1.08),
    # The random numbers are as many as the weights. By its name: the rule makes a variable, and with it the devices.
    "RandomPerturbation": Variant("randomperturbation", 2.3, 3.3),
}


def compiled(model, rule):
    """`model` ready to train: as it is for `None`, else with the rule."""
    kwargs = {}
    if rule is not None:
        model, kwargs = keras_sam.SAMModel.from_model(model), {"sam": rule}
    # A rate so small that hundreds of steps on one batch leave it a training problem like any other.
    optimizer = keras.optimizers.SGD(1e-4, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs)
    return model


def batch_of(batch_size, image_size, num_classes=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch_size, image_size, image_size, 3), dtype="float32")
    return keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(rng.integers(num_classes, size=batch_size))


def runner(model, batch):
    """A function that runs a number of training steps on `batch` and waits for the last."""
    model.make_train_function()
    one_step = {"tensorflow": _tensorflow_step, "jax": _jax_step, "torch": _torch_step}[keras.backend.backend()]
    one_step = one_step(model, batch)

    def run(steps):
        for _ in range(steps):
            logs = one_step()
        loss = float(keras.ops.convert_to_numpy(logs["loss"]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss}: a diverged model is not the training that is timed.")

    return run


def _tensorflow_step(model, batch):
    return lambda: model.train_function(iter([batch]))


def _torch_step(model, batch):
    return lambda: model.train_function([batch])


def _jax_step(model, batch):
    """The train function gives its state away and returns the next one, as in `fit`."""
    model.train_on_batch(*batch)  # builds the optimizer and the metrics
    groups = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    # Copies, since the variables' own arrays are shared with the other models.
    state = [tuple([keras.ops.copy(v.value) for v in group] for group in (*groups, model.metrics_variables))]

    def step():
        logs, state[0] = model.train_function(state[0], iter([batch]))
        return logs

    return step


def take_turns(runs, steps, rounds, seed=0, clocks=None):
    """Time blocks of steps of all variants, interleaved.

    Args:
        runs: Dict from a name to a function that runs a number of steps.
        steps: Integer, the steps of a block of the slowest variant; the blocks of others are multiples of it.
        rounds: Integer, the blocks of each variant that count; one more warms up and one more is for planning.
        seed: Integer, of the order in each round. Defaults to `0`.
        clocks: Optional dict from a name to a function that reads seconds. Defaults to wall and processor time.

    Returns:
        Dict from a clock's name to a dict from a variant's name to a list of seconds per step, one a round; and a dict
        from a variant's name to the steps of its blocks.
    """
    clocks = clocks or {"wall": time.perf_counter, "cpu": time.process_time}
    for run in runs.values():
        run(steps)
    planned = {name: _timed(run, steps, clocks) for name, run in runs.items()}
    wall = {name: next(iter(seconds.values())) for name, seconds in planned.items()}
    # Blocks of one length: the median of short blocks misses the bursts of other work that hit every long block.
    blocks = {name: steps * round(max(wall.values()) / seconds) for name, seconds in wall.items()}

    times = {clock: {name: [] for name in runs} for clock in clocks}
    order, shuffle = list(runs), random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            for clock, seconds in _timed(runs[name], blocks[name], clocks).items():
                times[clock][name].append(seconds)
    return times, blocks


def _timed(run, steps, clocks):
    """Seconds per step by each clock."""
    started = {clock: read() for clock, read in clocks.items()}
    run(steps)
    return {clock: (read() - started[clock]) / steps for clock, read in clocks.items()}


def summarize(times, variants=VARIANTS):
    """The ratio of each variant to plain Keras, with its spread over rounds; a dict from names to rows."""
    rows = {}
    for name, wall in times["wall"].items():
        ratios = _ratios(wall, times["wall"][PLAIN])
        rows[name] = {
            "seconds_per_step": statistics.median(wall),
            "ratio": statistics.median(ratios),
            "quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
            "cpu_ratio": statistics.median(_ratios(times["cpu"][name], times["cpu"][PLAIN])),
            "limit": variants[name].step_limit,
        }
    return rows


def _ratios(times, plain):
    return [t / p for t, p in zip(times, plain)]


def measure(names, batch_size=64, steps=5, rounds=20, depth=20, image_size=32, seed=0):
    """Time the variants of these names; returns what is written as JSON, the environment aside."""
    if steps % K:
        raise ValueError(f"Received `steps={steps}`; expected a multiple of {K}, or blocks would differ in their work.")
    names = [PLAIN, *(name for name in names if name != PLAIN)]
    batch, runs = batch_of(batch_size, image_size), {}
    for name in names:
        keras.utils.set_random_seed(seed)
        model = resnet(depth, image_size=image_size)
        runs[name] = runner(compiled(model, VARIANTS[name].rule), batch)
    times, blocks = take_turns(runs, steps, rounds, seed)
    config = {"batch_size": batch_size, "steps": steps, "rounds": rounds, "depth": depth, "image_size": image_size}
    return {
        "config": {**config, "seed": seed, "parameters": model.count_params()},
        "blocks": blocks,
        "rows": summarize(times),
        "times": times,
    }


def print_results(results):
    cells = [
        (
            name,
            f"{1e3 * row['seconds_per_step']:.1f}",
            f"{row['ratio']:.3f}",
            "{:.3f} – {:.3f}".format(*row["quartiles"]),
            f"{row['cpu_ratio']:.3f}",
            *report.verdict(row["ratio"], row["limit"]),
        )
        for name, row in results["rows"].items()
    ]
    config = results["config"]
    report.print_table(
        f"Training step of ResNet-{config['depth']}, batch {config['batch_size']}, over {config['rounds']} rounds",
        ("variant", "ms", "ratio", "quartiles", "cpu", "limit", "holds"),
        cells,
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each variant")
    parser.add_argument("--steps", type=int, default=5, help="steps of a block of the slowest variant")
    parser.add_argument("--depth", type=int, default=20, help="layers of the ResNet, 6n + 2")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit does not hold")
    options = vars(parser.parse_args(argv))
    output, check, names = options.pop("output"), options.pop("check"), options.pop("variants")
    results = measure(names, **options)
    print_results(results)
    if output:
        report.save(output, results)
    return int(check and bool(report.failures(results["rows"])))


if __name__ == "__main__":
    sys.exit(main())
