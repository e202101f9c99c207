"""The train step of `fit` compiled for a slice of TPUs, on a machine that has none.

```
python benchmarks/tpu_aot.py --output tpu_aot.json
```

XLA's compiler for TPUs makes the program of eight v5e chips (2×4) out of the very function that `fit` jits under
`keras.distribution.DataParallel`, in mixed_bfloat16. What is printed it says of one chip; nothing is run.

Flops and memory are compared with `keras.Model`. Its collectives are of another kind: Keras averages
BatchNormalization's statistics over all chips, forward and backward, and XLA adds up its gradients in bfloat16. With
SAM each chip has its own statistics, and one all-reduce takes all there is, in float32. So collectives are compared
with MSAM's, whose step is a plain one in that view: a single gradient.

Cost: ResNet-20 about 4 CPU minutes and 2 GB, EfficientNetB0 (`--model efficientnetb0`) three times that.
Expect SAM at 2.00 times the flops, and one all-reduce. Needs `pip install keras-sam[tpu]`.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
import time

# No TPU is looked for, neither on this machine nor in the cloud.
os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}

import compiled
import jax
import keras
import report
from jax.experimental import topologies
from resnet import resnet

import keras_sam

TOPOLOGY = "v5e:2x4"
# The network, the images of a chip, and their size.
MODELS = {
    "resnet8": (lambda: resnet(8), 8, 32),
    "resnet20": (resnet, 32, 32),
    "efficientnetb0": (lambda: keras.applications.EfficientNetB0(weights=None, classifier_activation=None), 8, 224),
}
PLAIN, ONE_GRADIENT, SAM = "keras.Model", "MSAM(rho=2.0)", "SAM(rho=0.05)"
RULES = {PLAIN: None, ONE_GRADIENT: keras_sam.MSAM(), SAM: keras_sam.SAM(rho=0.05)}
# What SAM is compared with, and the most that it may have in units of that. The sharpness is a number to average.
LIMITS = {
    "flops": (PLAIN, 2.05),
    "temporary_bytes": (PLAIN, 1.5),
    "all_reduces": (ONE_GRADIENT, 1.0),
    "all_reduce_bytes": (ONE_GRADIENT, 1.001),
}


def devices():
    """The chips of the slice, as the compiler sees them."""
    if importlib.util.find_spec("libtpu") is None:
        raise SystemExit("XLA's compiler for TPUs is not installed: `pip install keras-sam[tpu]` (package libtpu).")
    return topologies.get_topology_desc(TOPOLOGY, platform="tpu").devices


def cost(name, rule, distribution):
    """What the step of a network of `MODELS` costs on one chip with a rule, or `None` for `keras.Model`; a dict."""
    make, rows, size = MODELS[name]
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, kwargs = make(), {}
    if rule is not None:
        model, kwargs = keras_sam.SAMModel.from_model(model), {"sam": rule}
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs)
    optimizer.build(model.trainable_variables)
    mesh, axis = distribution.device_mesh.backend_mesh, distribution.batch_dim_name
    everywhere, spread = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), (axis,)))
    for variable in model.variables + optimizer.variables + model.metrics_variables:
        # `fit` takes the values out of the variables as well; here shapes on the chips stand in their place.
        variable._value = jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=everywhere)
    x = jax.ShapeDtypeStruct((rows * mesh.size, size, size, 3), "float32", sharding=spread)
    y = jax.ShapeDtypeStruct((rows * mesh.size,), "int32", sharding=spread)
    begun = time.perf_counter()
    with distribution.scope():
        program = compiled.lowered(model, x, y).compile()
    return {**compiled.cost(program), "seconds": time.perf_counter() - begun}


def measure(name):
    """Compile all variants; returns what is written as JSON, the environment aside."""
    distribution = keras.distribution.DataParallel(devices=devices())
    costs = {label: cost(name, rule, distribution) for label, rule in RULES.items()}
    rows = {
        key: {"than": other, "ratio": costs[SAM][key] / costs[other][key], "limit": limit}
        for key, (other, limit) in LIMITS.items()
    }
    config = {"model": name, "images_per_chip": MODELS[name][1], "image_size": MODELS[name][2], "topology": TOPOLOGY}
    config |= {"dtype_policy": "mixed_bfloat16", "libtpu": importlib.metadata.version("libtpu")}
    return {"config": config, "costs": costs, "rows": rows}


def print_results(results):
    config, costs = results["config"], results["costs"]
    title = "{model} on {topology}, {images_per_chip} images of {image_size} px a chip, {dtype_policy}".format(**config)
    cells = [
        (
            key,
            *(f"{costs[label][key]:,.0f}" for label in RULES),
            *([f"{row['ratio']:.3f}", row["than"]] if row else ["", ""]),
            *(report.verdict(row["ratio"], row["limit"]) if row else ("", "")),
        )
        for key, row in ((key, results["rows"].get(key)) for key in costs[PLAIN])
    ]
    report.print_table(title, ("a chip", *RULES, "SAM's ratio", "to", "limit", "holds"), cells)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit does not hold")
    options = parser.parse_args(argv)
    results = measure(options.model)
    print_results(results)
    if options.output:
        report.save(options.output, results)
    return int(options.check and bool(report.failures(results["rows"])))


if __name__ == "__main__":
    sys.exit(main())
