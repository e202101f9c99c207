"""Images per second that each input pipeline delivers.

```
python benchmarks/input_pipeline.py --output input_pipeline.json
```

Each pipeline of `keras_sam.experiments.data` is read for a while and then timed batch after batch, as a network that
takes no time would read it. CIFAR and Fashion-MNIST are random arrays; ImageNet is the two photographs that ship with
scikit-learn, 500 pixels wide as JPEG, cut to 224 pixels. `a core` is images per processor second of the process, which
other processes disturb less. Augmentations are made by KerasCV's layers where KerasCV is installed.

SAM computes two gradients of each batch, so that an accelerator asks for half of the images that it asks for without.
The slowest pipeline is named with what it can feed, in units of one V100 that trains ResNet-50 with SAM: half of the
1,270 images per second that one is reported to reach in TensorFlow with mixed precision.

Cost: about two minutes. Expect CIFAR's basic pipeline above 15,000 on 2 idle CPU cores, with Cutout above 10,000.
"""

import argparse
import os
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np
import report
import tensorflow as tf
from sklearn.datasets import load_sample_images

from keras_sam.experiments.data import layers, load
from keras_sam.experiments.data.pipelines import pipeline
from keras_sam.experiments.data.splits import Split, Stream

V100_WITH_SAM = 1270 / 2
JPEG_SIZE, JPEG_QUALITY = (334, 500), 95


class Pipeline(NamedTuple):
    """A row of the benchmark.

    Args:
        data: Name of the data set whose form the images have.
        augmentation: As for `pipeline`.
        needed: Float, the images per second that it has to deliver on 2 cores, or `None`. Defaults to `None`.
        mixup: As for `pipeline`. Defaults to `None`.
    """

    data: str
    augmentation: str
    needed: float | None = None
    mixup: float | None = None


PIPELINES = {
    "cifar none": Pipeline("cifar10", "none"),
    "cifar basic": Pipeline("cifar10", "basic", 15_000),
    "cifar basic+cutout": Pipeline("cifar10", "basic+cutout", 10_000),
    "cifar basic, mixup": Pipeline("cifar10", "basic", mixup=1.0),
    "cifar basic+cutmix": Pipeline("cifar10", "basic+cutmix"),
    "cifar autoaugment": Pipeline("cifar10", "autoaugment-cifar"),
    "svhn autoaugment": Pipeline("svhn", "autoaugment-svhn"),
    "fashion basic+cutout": Pipeline("fashion_mnist", "basic+cutout"),
    "imagenet": Pipeline("imagenet2012", "imagenet"),
    "imagenet autoaugment": Pipeline("imagenet2012", "autoaugment-imagenet"),
    "imagenet randaugment": Pipeline("imagenet2012", "randaugment"),
}


def data_of(name, num_examples):
    """Images of the form of a data set, so many."""
    data = load(name, stand_in=True)
    labels = np.arange(num_examples) % data.num_classes
    if isinstance(data.train, Split):
        images = np.random.default_rng(0).integers(0, 256, (num_examples, *data.image_shape), "uint8")
        return data._replace(train=Split(images, labels))
    photographs = tf.image.resize(np.stack(load_sample_images().images), JPEG_SIZE, antialias=True)
    files = [tf.io.encode_jpeg(tf.cast(p, "uint8"), quality=JPEG_QUALITY).numpy() for p in photographs]
    examples = tf.data.Dataset.from_tensor_slices(([files[i % len(files)] for i in range(num_examples)], labels))
    return data._replace(train=Stream(examples, num_examples))


def rates(batches, batch_size, warm_up, seconds, rounds, clocks=(time.perf_counter, time.process_time)):
    """Images per second of both clocks, each a list with one number a round.

    Args:
        batches: Iterable of batches without end.
        batch_size: Int.
        warm_up: Float, seconds that do not count: buffers fill, and tf.data finds its degree of parallelism.
        seconds: Float, of a round.
        rounds: Int.
        clocks: Functions that read seconds; the first decides when a round is over. Defaults to wall and processor.
    """
    iterator, results = iter(batches), []
    for length in [warm_up] + rounds * [seconds]:
        started, count = [clock() for clock in clocks], 0
        while clocks[0]() - started[0] < length or not count:
            next(iterator)
            count += batch_size
        results.append([count / (clock() - start) for clock, start in zip(clocks, started)])
    return [list(by_round) for by_round in zip(*results[1:])]


def summarize(measured, pipelines=PIPELINES):
    """The median rate of each pipeline by each clock; a dict from names to rows."""
    rows = {}
    for name, (wall, cpu) in measured.items():
        median, needed = statistics.median(wall), pipelines[name].needed
        rows[name] = {
            "images_per_second": median,
            "slowest_and_fastest_round": [min(wall), max(wall)],
            "images_per_cpu_second": statistics.median(cpu),
            "needed": needed,
            "ratio": needed and needed / median,
            "limit": needed and 1.0,
        }
    return rows


def measure(names, batch_size=256, image_size=224, num_examples=5120, warm_up=3.0, seconds=2.0, rounds=3):
    """Time the pipelines of these names; returns what is written as JSON, the environment aside."""
    measured = {}
    for name in names:
        data, augmentation, _, mixup = PIPELINES[name]
        # Of a large image there is a batch, since there is one of each photograph only.
        large = data == "imagenet2012"
        source = data_of(data, batch_size if large else max(num_examples, batch_size))
        batches = pipeline(source, batch_size, augmentation, image_size=image_size if large else None, mixup=mixup)
        measured[name] = rates(batches, batch_size, warm_up, seconds, rounds)
    config = {"batch_size": batch_size, "image_size": image_size, "num_examples": num_examples}
    return {
        "config": {
            **config,
            "warm_up": warm_up,
            "seconds": seconds,
            "rounds": rounds,
            "layers": layers.chosen.__name__,
        },
        "cores": os.cpu_count(),
        "rows": summarize(measured),
        "rates": measured,
    }


def slowest(rows):
    """A sentence on what the slowest pipeline can feed."""
    name = min(rows, key=lambda n: rows[n]["images_per_second"])
    rate = rows[name]["images_per_second"]
    return (
        f"The slowest, {name}, feeds an accelerator that trains on {rate:,.0f} images per second with SAM: "
        f"{rate / V100_WITH_SAM:.2f} V100 with ResNet-50, or {V100_WITH_SAM / rows[name]['images_per_cpu_second']:.0f} "
        "cores for one."
    )


def print_results(results):
    cells = [
        (
            name,
            f"{row['images_per_second']:,.0f}",
            "{:,.0f} – {:,.0f}".format(*row["slowest_and_fastest_round"]),
            f"{row['images_per_cpu_second']:,.0f}",
            f"≥ {row['needed']:,.0f}" if row["needed"] else "",
            *report.verdict(row["ratio"], row["limit"])[1:],
        )
        for name, row in results["rows"].items()
    ]
    config = results["config"]
    report.print_table(
        f"Images per second on {results['cores']} cores, batch {config['batch_size']}, over {config['rounds']} rounds",
        ("pipeline", "images/s", "rounds", "a core", "needed", "holds"),
        cells,
        slowest(results["rows"]),
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES), help="default: all")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224, help="of ImageNet's pipelines")
    parser.add_argument("--num-examples", type=int, default=5120)
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before each pipeline's first round")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a pipeline is too slow")
    options = vars(parser.parse_args(argv))
    output, check = options.pop("output"), options.pop("check")
    results = measure(options.pop("pipelines"), **options)
    print_results(results)
    if output:
        report.save(output, results)
    return int(check and bool(report.failures(results["rows"])))


if __name__ == "__main__":
    sys.exit(main())
