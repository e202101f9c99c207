"""What fine-tuning EfficientNet-B7 and L2 with SAM would take on 32 and 512 chips of TPU v5e: a projection.

```
KERAS_BACKEND=jax python benchmarks/projection.py --aot results/tpu_aot.json --output results/projection.json
```

With b images a chip, F operations an image of one gradient, p gradients a step (1 for plain, SAM's ratio of operations
for SAM), G bytes of gradients to average, w parameters, and n chips in slices of s chips:

```
compute = b F p / (utilization · peak)
ring    = 2 (s − 1) / s · G / ICI                      # within a slice
between = 2 (n/s − 1) / (n/s) · G / DCN                # 0 in one slice; DCN is that of a whole slice
step    = compute + ring + between                     # nothing overlaps: the worst case
images a second = n b / step
memory of weights = 4 w · copies                       # 3: weights, momentum, gradient; 5 for SAM: w + ε̂ and a gradient
```

Read off programs: F (XLA's count of operations of the gradient, lowered with shapes alone), w, and from the file of
tpu_aot.py, where there is one, SAM's ratio of operations and the bytes all-reduced for each parameter: in
mixed_bfloat16 they are about two bytes a parameter for plain Keras, and for SAM, which leaves the step of a device as
the float32 that it is, four. Without the file they are the 2 of Algorithm 1, and four bytes for both. From the data
sheet of v5e: peak, memory, bandwidths, the chips of a slice. Assumed: utilization. All the rest is projected, and no
chip has run it. Activations are not projected.

Batches are the paper's: 16 images of 600 pixels a chip for B7, 4 of 475 for L2 (table 3).

Cost: 2 minutes and 2 GB of memory on 2 CPU cores.
"""

import argparse
import functools
import json
import pathlib
import sys
from typing import NamedTuple

import keras
import numpy as np
import report
from resnet import resnet

# https://cloud.google.com/tpu/docs/v5e: bytes and seconds. ICI is one direction, DCN that of a pod, which is a slice.
V5E = {"peak": 197e12, "memory": 16e9, "ici": 200e9, "dcn": 800e9, "slice": 256}
# Name: image size, images a chip.
NETWORKS = {"b7": (600, 16), "l2": (475, 4)}


class Costs(NamedTuple):
    """SAM's operations over plain's, and the bytes that each all-reduces for a parameter."""

    flops_ratio: float = 2.0
    plain_bytes: float = 4.0
    sam_bytes: float = 4.0


def project(flops, parameters, batch_size, num_chips, utilization, costs=Costs(), chip=V5E):  # noqa: B008
    """The formula of this file's docstring for SAM and for plain; a dict of seconds, bytes and rates."""
    in_slice = min(num_chips, chip["slice"])
    slices = -(-num_chips // chip["slice"])
    seconds_per_byte = 2 * (in_slice - 1) / in_slice / chip["ici"] + 2 * (slices - 1) / slices / chip["dcn"]
    rows = {}
    for name, gradients, sent, copies in (
        ("plain", 1.0, costs.plain_bytes, 3),
        ("SAM", costs.flops_ratio, costs.sam_bytes, 5),
    ):
        compute = batch_size * flops * gradients / (utilization * chip["peak"])
        communication = sent * parameters * seconds_per_byte
        rows[name] = {
            "compute_seconds": compute,
            "communication_seconds": communication,
            "step_seconds": compute + communication,
            "images_per_second": num_chips * batch_size / (compute + communication),
            "weight_memory_bytes": copies * 4 * parameters,
        }
    return {**rows, "ratio": rows["SAM"]["step_seconds"] / rows["plain"]["step_seconds"], "slices": slices}


def gradient_of(make, image_shape, num_classes):
    """Operations of one image's gradient by XLA's count, and the number of parameters; no array is made.

    Args:
        make: Function of a model class, the shape of an image and the number of classes, that returns a model whose
            outputs are logits.
        image_shape: Tuple, `(height, width, channels)`.
        num_classes: Integer.
    """
    import jax

    with keras.StatelessScope():  # in which variables have shapes and no values
        model = make(keras.Model, image_shape, num_classes)

    def loss_of(weights, state, x, y):
        logits, state = model.stateless_call(weights, state, x, training=True)
        return keras.ops.mean(keras.losses.categorical_crossentropy(y, logits, from_logits=True)), state

    def shapes(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]

    x = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    y = jax.ShapeDtypeStruct((1, num_classes), "float32")
    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    lowered = gradient.lower(shapes(model.trainable_variables), shapes(model.non_trainable_variables), x, y)
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return lowered.cost_analysis()["flops"], parameters


def ahead_of_time(path):
    """`Costs` as compiled for TPU, ResNet-20's; `None` without a file."""
    if path is None or not pathlib.Path(path).exists():
        return None
    costs = json.loads(pathlib.Path(path).read_text())["costs"]
    plain, sam = costs["keras.Model"], next(cost for name, cost in costs.items() if name.startswith("SAM"))
    sent = [cost["all_reduce_bytes"] / resnet().count_params() for cost in (plain, sam)]
    return Costs(sam["flops"] / plain["flops"], *sent)


def measure(networks, chips, utilization, aot):
    from keras_sam.experiments.models.efficientnet import efficientnet

    compiled = ahead_of_time(aot)
    rows, counted = [], {}
    for scale in networks:
        image_size, batch_size = NETWORKS[scale]
        make = functools.partial(efficientnet, scale=scale)
        flops, parameters = gradient_of(make, (image_size, image_size, 3), 1000)
        counted[scale] = {"flops_per_image": flops, "parameters": parameters}
        for n in chips:
            projected = project(flops, parameters, batch_size, n, utilization, compiled or Costs())
            rows.append({"network": scale, "image_size": image_size, "chips": n, "batch_size": batch_size, **projected})
    config = {"chip": "TPU v5e", **V5E, "utilization": utilization, **(compiled or Costs())._asdict()}
    return {"config": config, "compiled_for_tpu": compiled is not None, "counted": counted, "rows": rows}


def print_results(results):
    cells = [
        (
            f"{row['network'].upper()}, {row['image_size']} px",
            str(row["chips"]),
            str(row["slices"]),
            str(row["chips"] * row["batch_size"]),
            *(f"{1e3 * row[name]['compute_seconds']:.0f}" for name in ("plain", "SAM")),
            *(f"{1e3 * row[name]['communication_seconds']:.1f}" for name in ("plain", "SAM")),
            f"{row['ratio']:.2f}",
            *(f"{row[name]['images_per_second']:,.0f}" for name in ("plain", "SAM")),
            *(f"{row[name]['weight_memory_bytes'] / 1e9:.1f}" for name in ("plain", "SAM")),
        )
        for row in results["rows"]
    ]
    header = ("EfficientNet", "chips", "slices", "batch", "compute", "SAM", "reduce", "SAM", "ratio")
    header += ("im/s", "SAM", "GB", "SAM")
    counted = "; ".join(
        f"{name.upper()}: {c['flops_per_image'] / 1e9:,.0f} Gflop an image's gradient, {c['parameters'] / 1e6:.1f} M "
        "parameters"
        for name, c in results["counted"].items()
    )
    source = "compiled for TPU" if results["compiled_for_tpu"] else "of Algorithm 1"
    report.print_table(
        f"Projected, TPU v5e at an assumed utilization of {results['config']['utilization']:.0%}",
        header,
        cells,
        "compute and reduce in ms, GB of weights and their like a chip; plain first, then SAM\n"
        f"counted: {counted}. SAM's ratios of operations and bytes: {source}. All else: projected, see the docstring.",
    )


def picture(results):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    times, rates = figure.subplots(1, 2)
    labels = [f"{r['network'].upper()}, {r['chips']} chips" for r in results["rows"]]
    places = np.arange(len(labels))[::-1]
    for name, color, shift in (("plain", "0.6", 0.2), ("SAM", "tab:blue", -0.2)):
        compute = np.array([1e3 * r[name]["compute_seconds"] for r in results["rows"]])
        sent = [1e3 * r[name]["communication_seconds"] for r in results["rows"]]
        times.barh(places + shift, compute, 0.38, color=color, label=f"{name}: compute")
        label = "all-reduce of either" if name == "SAM" else None
        times.barh(places + shift, sent, 0.38, left=compute, color="tab:orange", label=label)
        rates.plot([r[name]["images_per_second"] for r in results["rows"]], places, "o", color=color, label=name)
    times.set(yticks=places, yticklabels=labels, xlabel="ms", title="A step (projected)")
    rates.set(yticks=places, yticklabels=[], xlabel="images / s", xscale="log", title="Speed (projected)")
    rates.set_ylim(times.get_ylim())
    rates.grid(axis="x", alpha=0.3)
    figure.legend(handles=times.get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return figure


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    parser.add_argument("--chips", nargs="+", type=int, default=[32, 512])
    parser.add_argument("--utilization", type=float, default=0.3, help="share of the peak that a step reaches")
    parser.add_argument("--aot", default="results/tpu_aot.json", help="JSON file of tpu_aot.py")
    parser.add_argument("--output", help="JSON file for the results; the picture is beside it")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    if keras.backend.backend() != "jax":
        parser.error(f"It counts operations by JAX and Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax.")
    results = measure(**options)
    print_results(results)
    if output:
        report.save(output, results)
        report.save_figure(output, picture(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
