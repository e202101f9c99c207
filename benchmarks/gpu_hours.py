"""What the paper's tables and figures would take on a GPU: operations counted, hours projected.

```
KERAS_BACKEND=jax python benchmarks/gpu_hours.py --output results/gpu_hours.json
```

For every run of a recipe (its rows, methods and seeds, with two trainings where it bootstraps):

```
operations = F · images an epoch · epochs · gradients a step
hours      = operations / (utilization · peak) / 3600
```

F is XLA's count of the operations of one image's gradient, lowered with shapes alone and a head of ten classes,
whatever the data: larger heads are less than a thousandth more. Gradients a step are `ascent_steps` + 1, and one more
with terms of second order; plain training has one. Peak is that of one A100 with bfloat16 (312e12 operations a second),
utilization 0.3 is assumed: no GPU has run it. Evaluation, input pipelines, the choice of hyperparameters, the Hessian's
spectra and m-sharpness are not in it.

Cost: 5 minutes and 4 GB of memory on 2 CPU cores.
"""

import argparse
import functools
import sys

import keras
import report
from projection import gradient_of

from keras_sam.experiments import recipes
from keras_sam.experiments.data.sources import SOURCES
from keras_sam.experiments.models import NETWORKS

A100, CLASSES = 312e12, 10
# Images to train on; fine-tuning counts steps, except for ImageNet.
TRAINING_IMAGES = {
    **{"cifar10": 50_000, "cifar100": 50_000, "fashion_mnist": 60_000, "imagenet2012": 1_281_167},
    "svhn": 73_257 + 531_131,
}


def gradients_of(rule):
    """Gradients that a step evaluates."""
    return 1 if rule is None or rule.rho == 0 else rule.ascent_steps + 1 + int(rule.second_order)


def images_of(row):
    """Images that a training of one unit of epochs sees, after what is held out."""
    if row.epochs is None:
        return row.steps * row.batch_size
    return row.epochs * (row.num_examples or round(TRAINING_IMAGES[row.data] * (1 - row.held_out)))


def operations_of(row, seeds, flops):
    """Operations of all methods and seeds of a row, `flops` an image's gradient."""
    trainings = sum(m.epochs * gradients_of(m.rule) * (2 if m.bootstrap else 1) for m in row.methods.values())
    return flops * images_of(row) * trainings * seeds


@functools.cache
def flops_of(network, image_shape, options=()):
    """Operations of one image's gradient."""
    kind = NETWORKS[network]
    make = functools.partial(kind.build, **{**kind.options, **dict(options)})
    return float(gradient_of(make, image_shape, CLASSES)[0])


def measure(tables, utilization):
    rows = {}
    for table in tables:
        recipe, operations, runs = recipes.module(table).ROWS, 0.0, 0
        for row in recipe.values():
            source = SOURCES[row.data]
            shape = (row.image_size, row.image_size, 3) if row.image_size else source.image_shape
            options = tuple((k, v) for k, v in row.options.items() if k not in ("new_head", "weights"))
            flops = flops_of(row.network, shape, options)
            operations += operations_of(row, row.num_seeds, flops)
            runs += len(row.methods) * row.num_seeds
        rows[table] = {"runs": runs, "operations": operations, "hours": operations / (utilization * A100) / 3600}
    return {"config": {"peak": A100, "utilization": utilization}, "rows": rows}


def print_results(results):
    cells = [(t, str(r["runs"]), f"{r['operations']:.2g}", f"{r['hours']:,.0f}") for t, r in results["rows"].items()]
    report.print_table("The paper on one A100: a projection", ("recipe", "runs", "operations", "hours"), cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [name for name in recipes.NAMES if not name.startswith("small-")]
    parser.add_argument("--tables", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--utilization", type=float, default=0.3, help="of the peak; default: 0.3, assumed")
    parser.add_argument("--output", help="JSON file for the results")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    if keras.backend.backend() != "jax":
        parser.error(f"It counts operations by JAX and Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax.")
    results = measure(**options)
    print_results(results)
    if output:
        report.save(output, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
