"""What `keras_sam.callbacks.SharpnessLogger` adds to the time of a training, at its default settings.

```
python benchmarks/sharpness_logger.py --output sharpness_logger.json
```

The network and the data of `keras-sam demo`: 768 digits, 120 epochs of SAM, once with the callback on 128 of the images
and once without, in turns; each run with everything that `fit` does, compiling included. The ratio is the median over
rounds; its bound is 1.25. Cost: about four minutes on 2 idle CPU cores.
"""

import argparse
import sys
import time

import keras
import numpy as np
import report

import keras_sam
from keras_sam.experiments.data import digits
from keras_sam.experiments.models.small_cnn import small_cnn

LIMIT = 1.25


def seconds(data, epochs, callbacks):
    """Of one training."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = small_cnn(keras_sam.SAMModel, data.x.shape[1:], 10, weight_decay=5e-4)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        sam=keras_sam.SAM(0.2),
    )
    start = time.perf_counter()
    model.fit(data.x, data.y, 128, epochs, callbacks=callbacks, verbose=0)
    return time.perf_counter() - start


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=128, help="on which the callback measures")
    parser.add_argument("--output", help="JSON file for the numbers")
    parser.add_argument("--check", action="store_true", help="fail where the bound is not met")
    options = parser.parse_args(argv)
    data, _, _ = digits.load(noise=0.6)
    few = data.x[: options.images], data.y[: options.images]
    times = {"without": [], "with": []}
    for _ in range(options.rounds):
        times["without"].append(seconds(data, options.epochs, []))
        times["with"].append(seconds(data, options.epochs, [keras_sam.callbacks.SharpnessLogger(few)]))
    low, ratio, high = np.percentile(np.divide(times["with"], times["without"]), [25, 50, 75])
    rows = {"SharpnessLogger": {"ratio": ratio, "quartiles": [low, high], "limit": LIMIT}}
    cells = [["SharpnessLogger", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}", *report.verdict(ratio, LIMIT)]]
    title = f"Time of a training with the callback, in units of one without, on {keras.backend.backend()}"
    report.print_table(title, ["", "ratio", "quartiles", "limit", "holds"], cells)
    if options.output:
        settings = {"epochs": options.epochs, "images": options.images}
        report.save(options.output, {"rows": rows, "seconds": times, **settings})
    if options.check and report.failures(rows):
        sys.exit(f"over the bound: {report.failures(rows)}")
    return rows


if __name__ == "__main__":
    main()
