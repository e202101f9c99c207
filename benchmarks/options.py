"""What the options of `compile` do to the speed of `fit` with SAM: images a second, in units of the defaults'.

```
KERAS_BACKEND=tensorflow python benchmarks/options.py --output results/options.json
```

A dense net, whose step is as short as what `fit` does around it, and ResNet-8, where the step is what counts. All
variants live in one process and take turns as in step_cost.py; a block is one call of `fit`.

Cost: about 3 minutes on 2 idle CPU cores.
"""

import argparse
import functools
import statistics
import sys

import keras
import numpy as np
import report
from memory import dense_net
from resnet import resnet
from step_cost import take_turns

import keras_sam

DEFAULTS = "defaults"
OPTIONS = {
    DEFAULTS: {},
    "steps_per_execution=16": {"steps_per_execution": 16},
    "jit_compile=True": {"jit_compile": True},
    "jit_compile=False": {"jit_compile": False},
    "run_eagerly=True": {"run_eagerly": True},
}
NETS = {"dense": (lambda: dense_net([64, 64]), (64,)), "ResNet-8": (lambda: resnet(8, image_size=16), (16, 16, 3))}


def runner(net, options, batch_size):
    """A function that trains by a number of steps in one call of `fit`."""
    make, shape = NETS[net]
    keras.utils.set_random_seed(0)
    model = keras_sam.SAMModel.from_model(make())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss, sam=keras_sam.SAM(0.05), **options)
    rng = np.random.default_rng(0)

    @functools.cache
    def data(rows):
        return rng.standard_normal((rows, *shape), dtype="float32"), rng.integers(10, size=rows)

    def run(steps):
        model.fit(*data(steps * batch_size), batch_size=batch_size, verbose=0)

    return run


def measure(nets, options, batch_size, steps, rounds):
    """Times of the options of these names beside the defaults', a network after the other."""
    rows, times, names = {}, {}, [DEFAULTS, *(name for name in options if name != DEFAULTS)]
    for net in nets:
        times[net], _ = take_turns({name: runner(net, OPTIONS[name], batch_size) for name in names}, steps, rounds)
        for name, wall in times[net]["wall"].items():
            speeds = np.divide(times[net]["wall"][DEFAULTS], wall)
            rows[f"{net}, {name}"] = {
                "images_per_second": batch_size / statistics.median(wall),
                "speed": float(np.median(speeds)),
                "quartiles": [float(q) for q in np.quantile(speeds, [0.25, 0.75])],
                "cpu_speed": float(np.median(np.divide(times[net]["cpu"][DEFAULTS], times[net]["cpu"][name]))),
            }
    return {"config": {"batch_size": batch_size, "steps": steps, "rounds": rounds}, "rows": rows, "times": times}


def print_results(results):
    cells = [
        (
            name,
            f"{row['images_per_second']:,.0f}",
            f"{row['speed']:.2f}",
            "{:.2f} – {:.2f}".format(*row["quartiles"]),
            f"{row['cpu_speed']:.2f}",
        )
        for name, row in results["rows"].items()
    ]
    title = f"fit with SAM on {keras.backend.backend()}, batch {results['config']['batch_size']}"
    report.print_table(title, ("compile(…)", "images / s", "speed", "quartiles", "cpu"), cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="default: both")
    parser.add_argument(
        "--options", nargs="+", choices=OPTIONS, default=list(OPTIONS)[:4], help="default: compiled ones"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="steps of a block of the slowest variant, 16 n")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="JSON file for the results")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    results = measure(**options)
    print_results(results)
    if output:
        report.save(output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
