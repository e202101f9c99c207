"""The cost of a Hessian-vector product in gradients, and of λ_max in epochs.

```
python benchmarks/hessian.py --output hessian.json
```

ResNet-20 on CIFAR-shaped batches of 64, as `keras_sam.sharpness` evaluates them. Gradients and products take turns; the
ratio is the median over rounds. λ_max is to a relative accuracy of 1 %, of a network after one epoch; the time of
an epoch is that of a second `fit` of plain Keras on the same images, so that their ratio does not depend on how many
there are, but for the products that ARPACK wants. The bound is 3 gradients a product.

Cost: some five minutes on 2 idle CPU cores with `--images 320`. Expect 2.4 to 2.7 on TensorFlow and torch, where a
product is the gradient of a scalar product with the gradient, and 1.8 to 2.2 on JAX, which has forward mode.
"""

import argparse
import statistics
import sys
import time

import keras
import numpy as np
import report
from resnet import resnet

from keras_sam.sharpness.hessian import extreme
from keras_sam.sharpness.objective import Objective

LIMIT = 3.0
BATCH_SIZE = 64


def measure(num_images, rounds, depth, image_size):
    """Seconds of a gradient and a product by round; of λ_max, with the number of its products, and of an epoch."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(num_images, image_size, image_size, 3)).astype("float32")
    y = random.integers(0, 10, num_images)
    model = resnet(depth, image_size=image_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    model.fit(x, y, BATCH_SIZE, verbose=0)
    epoch, epoch_cpu = clocked(lambda: model.fit(x, y, BATCH_SIZE, verbose=0))

    objective = Objective(model, (x[:BATCH_SIZE], y[:BATCH_SIZE]), BATCH_SIZE)
    weights = objective.weights
    vector = objective.unflatten(random.normal(size=objective.num_parameters))
    variants = {
        "gradient": lambda: finish(objective.value_and_grad(weights)[1]),
        "product": lambda: finish(objective.mean_product(vector)),
    }
    for run in variants.values():
        run()
    seconds = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            seconds[name].append(clocked(run)[0])

    counted = Counted(model, (x, y), BATCH_SIZE)
    start = random.normal(size=counted.num_parameters)
    eigenvalue, eigenvalue_cpu = clocked(lambda: extreme(counted, 1, "LA", 1e-2, start))
    return {
        "seconds": seconds,
        "lambda_max": eigenvalue,
        "lambda_max_cpu": eigenvalue_cpu,
        "num_products": counted.num_products,
        "epoch": epoch,
        "epoch_cpu": epoch_cpu,
    }


class Counted(Objective):
    num_products = 0

    def hessian_vector_product(self, vector):
        self.num_products += 1
        return super().hessian_vector_product(vector)


def finish(tensors):
    """Wait until they are computed."""
    return [keras.ops.convert_to_numpy(t) for t in tensors]


def clocked(function):
    """Seconds of wall time, and of processor time, which other processes disturb less."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--output", help="JSON file for the numbers")
    parser.add_argument("--check", action="store_true", help="fail where a bound is not met")
    options = parser.parse_args(argv)
    measured = measure(options.images, options.rounds, options.depth, options.image_size)
    ratios = [p / g for p, g in zip(measured["seconds"]["product"], measured["seconds"]["gradient"])]
    low, ratio, high = np.percentile(ratios, [25, 50, 75])
    rows = {
        "product / gradient": {"ratio": ratio, "quartiles": f"{low:.2f} to {high:.2f}", "limit": LIMIT},
        "lambda_max / epoch": {"ratio": measured["lambda_max"] / measured["epoch"], "quartiles": None, "limit": None},
        "the same, processor time": {
            "ratio": measured["lambda_max_cpu"] / measured["epoch_cpu"],
            "quartiles": None,
            "limit": None,
        },
    }
    cells = [
        [name, f"{row['ratio']:.2f}", row["quartiles"] or "", *report.verdict(row["ratio"], row["limit"])]
        for name, row in rows.items()
    ]
    caption = (
        f"a gradient takes {1000 * statistics.median(measured['seconds']['gradient']):.0f} ms; λ_max took "
        f"{measured['num_products']} products, compiling them included"
    )
    title = f"Hessian of ResNet-{options.depth} on {keras.backend.backend()}"
    report.print_table(title, ["", "ratio", "quartiles", "limit", "holds"], cells, caption)
    if options.output:
        report.save(options.output, {"rows": rows, "images": options.images, **measured})
    if options.check and report.failures(rows):
        sys.exit(f"over the bound: {report.failures(rows)}")
    return rows


if __name__ == "__main__":
    main()
