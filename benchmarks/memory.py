"""The peak memory of training with each rule over plain Keras's, in units of the weights' size.

```
python benchmarks/memory.py --output memory.json
python benchmarks/memory.py --sweep parameters --output memory_parameters.json
python benchmarks/memory.py --sweep batch --output memory_batch.json
```

A dense net of 227 MB of float32 weights in layers of 8 to 67 MB, trained by a few steps of `fit` with a batch so small
that its activations do not count. Each variant trains in a process of its own, whose peak resident size is read at the
end; a process that only imports is the zero of the column `weights`. The bound is what Algorithm 1 has to keep: one
copy of the weights for w + ε̂ and one more gradient, with a tenth to spare.

glibc keeps freed blocks of up to 32 MB, in an order that depends on the threads. So that a peak is of memory in use,
all processes run with MALLOC_MMAP_THRESHOLD_=65536, which returns such blocks at once: without it plain Keras peaks 0.5
weights higher and SAM 0.4, so that the comparison gets stricter by it. MALLOC_ARENA_MAX changes nothing.

A sweep measures SAM at 1 to 100 million parameters, or at batches of 8 to 4,096 with 10 million, where activations
count. Equal runs differ by some 20 MB, more than 2.2 times the smallest nets' weights: `noise` stands for an excess
smaller than that.

Cost: about 4 minutes on 2 CPU cores and 2 GB of memory. Expect 1.2 times the weights for SAM with p = 2, with ρ a
number or a schedule, 0.9 with p = inf, and 0 for a constant ρ of 0. A sweep takes about 4 minutes too.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys

import keras
import numpy as np
import report
from step_cost import PLAIN, VARIANTS, compiled

IMPORTS = "imports alone"
WIDTHS = (2048, 4096, 4096, 4096, 2048, 2048, 1024)
SAM = "SAM(rho=0.05)"
# Four square layers: 1, 3, 10, 30 and 100 million parameters.
SWEEPS = {
    "parameters": [{"widths": [width] * 5, "batch_size": 8} for width in (498, 864, 1578, 2736, 4996)],
    "batch": [{"widths": [1578] * 5, "batch_size": size} for size in (8, 64, 512, 4096)],
}
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def dense_net(widths, num_classes=10):
    """A ReLU net from `widths[0]` inputs over the other widths to logits."""
    inputs = x = keras.Input((widths[0],))
    for width in widths[1:]:
        x = keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def peak_bytes():
    """The largest resident size that this process has had."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    # `ru_maxrss` would begin at the size of the process that started this one.
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def train(name, widths, batch_size, steps):
    """What one process does: train the variant of this name and measure itself."""
    if name == IMPORTS:
        keras.ops.convert_to_numpy(keras.ops.zeros(()) + 1)
        return {"peak_bytes": peak_bytes(), "weight_bytes": 0}
    keras.utils.set_random_seed(0)
    model = compiled(dense_net(widths), VARIANTS[name].rule)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size * steps, widths[0]), dtype="float32")
    history = model.fit(x, rng.integers(10, size=len(x)), batch_size=batch_size, verbose=0)
    if not np.isfinite(history.history["loss"][0]):
        raise FloatingPointError(f"The loss of {name} is not finite.")
    weight_bytes = sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)
    return {"peak_bytes": peak_bytes(), "weight_bytes": weight_bytes}


def train_in_process(name, **config):
    command = [sys.executable, __file__, "--child", json.dumps({"name": name, **config})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **MALLOC})
    if done.returncode:
        raise RuntimeError(f"Training {name} failed with exit code {done.returncode}; its error is above.")
    return json.loads(done.stdout.splitlines()[-1])


def summarize(peaks, weight_bytes, variants=VARIANTS):
    """Peaks over plain Keras's; a dict from names to rows.

    Args:
        peaks: Dict from a variant's name, and `IMPORTS`, to a list of bytes, one a run.
        weight_bytes: Integer, the size of the weights.
        variants: Dict from names to `Variant`, for the limits. Defaults to `VARIANTS`.
    """
    median = {name: statistics.median(values) for name, values in peaks.items()}
    return {
        name: {
            "peak_mb": median[name] / 1e6,
            "spread_mb": (max(peaks[name]) - min(peaks[name])) / 1e6,
            "weights": (median[name] - median[IMPORTS]) / weight_bytes,
            "extra_mb": (median[name] - median[PLAIN]) / 1e6,
            "ratio": (median[name] - median[PLAIN]) / weight_bytes,
            "limit": variants[name].memory_limit,
        }
        for name in peaks
        if name != IMPORTS
    }


def measure(names, widths=WIDTHS, batch_size=8, steps=4, repeats=3):
    """Train the variants of these names; returns what is written as JSON, the environment aside."""
    names = [IMPORTS, PLAIN, *(name for name in names if name != PLAIN)]
    peaks = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            result = train_in_process(name, widths=list(widths), batch_size=batch_size, steps=steps)
            peaks[name].append(result["peak_bytes"])
    weight_bytes = result["weight_bytes"]
    config = {"widths": list(widths), "batch_size": batch_size, "steps": steps, "repeats": repeats}
    return {
        "config": {**config, "weight_bytes": weight_bytes, "malloc": MALLOC},
        "rows": summarize(peaks, weight_bytes),
        "peaks": peaks,
    }


def sweep(by, steps=4, repeats=3):
    """SAM beside plain Keras at each point of a sweep; returns what is written as JSON, the environment aside."""
    points = [measure([SAM], **point, steps=steps, repeats=repeats) for point in SWEEPS[by]]
    rows = []
    for point in points:
        plain, sam, config = point["rows"][PLAIN], point["rows"][SAM], point["config"]
        spread = max(plain["spread_mb"], sam["spread_mb"])
        rows.append(
            {
                "parameters": config["weight_bytes"] // 4,
                "batch_size": config["batch_size"],
                "weight_mb": config["weight_bytes"] / 1e6,
                "plain_mb": plain["peak_mb"],
                "noise_mb": spread,
                **{key: sam[key] for key in ("peak_mb", "extra_mb", "ratio", "limit")},
                "holds": "yes" if sam["ratio"] <= sam["limit"] else "noise" if sam["extra_mb"] <= spread else "NO",
            }
        )
    return {"by": by, "rows": rows, "points": points}


def print_sweep(results):
    cells = [
        (
            f"{row['parameters'] / 1e6:.1f}",
            str(row["batch_size"]),
            *(f"{row[key]:.0f}" for key in ("weight_mb", "plain_mb", "peak_mb")),
            f"{row['extra_mb']:+.0f}",
            f"{row['noise_mb']:.0f}",
            f"{row['ratio']:+.2f}",
            f"≤ {row['limit']:.2f}",
            row["holds"],
        )
        for row in results["rows"]
    ]
    header = (
        "M parameters",
        "batch",
        "weights MB",
        "plain MB",
        "SAM MB",
        "extra MB",
        "± MB",
        "extra",
        "limit",
        "holds",
    )
    caption = f"MB: peak of the process; extra: {SAM} over {PLAIN}, also in units of the weights"
    report.print_table(f"Peak memory by {results['by']}", header, cells, caption)


def picture(results):
    """What SAM adds to the peak, beside the limit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    rows = results["rows"]
    x = [row["parameters"] if results["by"] == "parameters" else row["batch_size"] for row in rows]
    noise = [row["noise_mb"] for row in rows]
    axes.errorbar(x, [row["extra_mb"] for row in rows], noise, marker="o", capsize=3, label="SAM over keras.Model")
    axes.plot(x, [row["limit"] * row["weight_mb"] for row in rows], ":", color="black", label="2.2 × the weights")
    axes.plot(x, [row["weight_mb"] for row in rows], ":", color="0.6", label="the weights")
    if results["by"] == "batch":
        axes.plot(x, [row["plain_mb"] for row in rows], color="0.6", label="keras.Model: whole process")
    axes.set(xscale="log", xlabel=results["by"], ylabel="MB", title=f"Peak memory that SAM adds, by {results['by']}")
    if results["by"] == "parameters":
        axes.set_yscale("log")
    axes.legend()
    return figure


def print_results(results):
    cells = [
        (
            name,
            f"{row['peak_mb']:.0f}",
            f"{row['spread_mb']:.0f}",
            f"{row['weights']:.2f}",
            f"{row['extra_mb']:+.0f}",
            f"{row['ratio']:+.2f}",
            *report.verdict(row["ratio"], row["limit"]),
        )
        for name, row in results["rows"].items()
    ]
    config = results["config"]
    imports = statistics.median(results["peaks"][IMPORTS]) / 1e6
    report.print_table(
        f"Peak memory with {config['weight_bytes'] / 1e6:.0f} MB of weights, median of {config['repeats']} processes",
        ("variant", "peak MB", "± MB", "weights", "extra MB", "extra", "limit", "holds"),
        cells,
        f"weights: (peak − {imports:.0f} MB of imports) / weights; extra: over {PLAIN}, also in units of the weights",
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS, help="inputs, then the layers")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="training steps of each process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each variant")
    parser.add_argument("--sweep", choices=SWEEPS, help="SAM alone, at several sizes; in place of the three above")
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit does not hold")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = vars(parser.parse_args(argv))
    output, check, child, by = (options.pop(name) for name in ("output", "check", "child", "sweep"))
    if child:
        print(json.dumps(train(**child)))
        return 0
    if by:
        results = sweep(by, options["steps"], options["repeats"])
        print_sweep(results)
        if output:
            report.save(output, results)
            report.save_figure(output, picture(results))
        return int(check and any(row["holds"] == "NO" for row in results["rows"]))
    results = measure(options.pop("variants"), **options)
    print_results(results)
    if output:
        report.save(output, results)
    return int(check and bool(report.failures(results["rows"])))


if __name__ == "__main__":
    sys.exit(main())
