"""What SAM costs over plain Keras, in time and in bytes between devices, by replicas, m, ascent steps and parameters.

```
python benchmarks/scaling.py --output results/scaling.json
```

ResNet-8 of 16 × 16 images, 8 of them a replica, and dense nets, on TensorFlow (MirroredStrategy) and JAX
(`keras.distribution.DataParallel`); each point has a process of its own, with as many logical CPU devices as it has
replicas. They share the machine's cores, so that no speed-up is to be seen here: what counts is the ratio to
`keras.Model`'s step in the same process, and the bytes. Those are no measurement but read off the program: on JAX the
collectives of the optimized HLO of the step that `fit` jits, on TensorFlow the collective ops in the graph of the
strategy's step; always of one replica.

Gates: a replica receives at most 1.1 times the bytes of the parameters, in no more collectives than plain Keras's
step, and at most 1.02 times plain Keras's bytes on TensorFlow (on JAX plain Keras exchanges the statistics of
BatchNormalization besides, pass by pass). By ascent steps a step costs (k + 1) gradients, by m as much as without.

Cost: about 7 minutes on 2 CPU cores. EfficientNet-B7 and L2 on many chips are in projection.py.
"""

import argparse
import json
import os
import subprocess
import sys

import keras
import numpy as np
import report
from step_cost import EXACT_LIMIT, MICRO_BATCH_LIMIT, PLAIN, compiled, runner, take_turns

from keras_sam import SAM

BACKENDS = ("tensorflow", "jax")
COLLECTIVES = ("CollectiveReduceV2", "CollectiveReduceV3", "CollectiveReduce", "CollectiveAllToAllV2", "NcclAllReduce")
SIZE, ROWS = 16, 8
RESNET = {"depth": 8, "image_size": SIZE}
WIDTHS = ((64, 128), (256, 512), (1024, 1024, 1024))


def points():
    """What is measured: dicts of an axis, a place on it, and what `race` takes."""
    sam = {"SAM": {}}
    for replicas in (1, 2, 4, 8):
        yield {"by": "replicas", "at": replicas, "replicas": replicas, "net": RESNET, "rules": sam}
    shares = {f"m = b/{k}" if k > 1 else "m = b": {"m": 2 * ROWS // k} for k in (1, 2, 4, 8)}
    yield {"by": "m", "at": None, "replicas": 1, "net": RESNET, "rows": 2 * ROWS, "rules": shares}
    steps = {f"ascent_steps = {k}": {"ascent_steps": k} for k in (1, 2, 4)}
    yield {"by": "ascent_steps", "at": None, "replicas": 1, "net": RESNET, "rules": steps}
    for widths in WIDTHS:
        yield {"by": "parameters", "at": None, "replicas": 2, "net": {"widths": widths}, "rules": sam}


def network(depth=None, image_size=None, widths=None):
    if widths:
        from memory import dense_net

        return dense_net(widths)
    from resnet import resnet

    return resnet(depth, image_size=image_size)


def race(replicas, net, rules, rows=ROWS, steps=1, rounds=5):
    """What one process does: plain Keras and some rules in turns; times, and what each sends."""
    make_runner, sent = {"tensorflow": on_tensorflow, "jax": on_jax}[keras.backend.backend()](replicas)
    runs, collectives = {}, {}
    for name, options in {PLAIN: None, **rules}.items():
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        shape = (net["widths"][0],) if "widths" in net else (SIZE, SIZE, 3)
        x = rng.standard_normal((replicas * rows, *shape), dtype="float32")
        y = rng.integers(10, size=len(x))

        def build(options=options):
            return compiled(network(**net), None if options is None else SAM(0.05, **options))

        model, runs[name], batch = make_runner(build, x, y)
        runs[name](1)
        collectives[name] = sent(model, batch) if replicas > 1 else []
    times, _ = take_turns(runs, steps, rounds)
    parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return {"times": times, "collectives": collectives, "parameters": parameters}


def on_tensorflow(replicas):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])

    def make_runner(build, x, y):
        with strategy.scope():
            model = build()
            model.optimizer.build(model.trainable_variables)
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x), drop_remainder=True)
        batch = next(iter(strategy.experimental_distribute_dataset(dataset)))
        return model, runner(model, batch), batch

    def sent(model, batch):
        step = tf.function(lambda data: strategy.run(model.train_step, (data,)))
        return collectives_in(step.get_concrete_function(batch).graph.as_graph_def(add_shapes=True), replicas)

    return make_runner, sent


def collectives_in(graph_def, replicas):
    """Pairs of the name and the bytes of each collective of one replica in the graph of all."""
    import tensorflow as tf

    nodes = [*graph_def.node, *(node for f in graph_def.library.function for node in f.node_def)]
    found = []
    for node in nodes:
        if node.op in COLLECTIVES:
            shape = tf.TensorShape(node.attr["_output_shapes"].list.shape[0])
            found.append((node.op, tf.as_dtype(node.attr["T"].type).size * shape.num_elements()))
    # Every replica has its own op for the same collective.
    return sorted(found)[::replicas]


def on_jax(replicas):
    import jax
    from compiled import collectives, lowered

    if replicas > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())

    def make_runner(build, x, y):
        batch = x, y
        if replicas > 1:
            mesh = keras.distribution.distribution().device_mesh.backend_mesh
            rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
            batch = tuple(jax.device_put(a, rows) for a in batch)
        model = build()
        model.optimizer.build(model.trainable_variables)  # where its variables lie is settled with the train function
        return model, runner(model, batch), batch

    def sent(model, batch):
        return collectives(lowered(model, *batch).compile().as_text())

    return make_runner, sent


def race_in_process(backend, replicas, **config):
    command = [sys.executable, __file__, "--child", json.dumps({"replicas": replicas, **config})]
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_NUM_CPU_DEVICES": str(replicas)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{config} on {backend} failed with exit code {done.returncode}; its error is above.")
    return json.loads(done.stdout.splitlines()[-1])


def summarize(point, found):
    """The rows of a point, one a rule."""
    rows, weights, plain = [], 4 * found["parameters"], found["collectives"][PLAIN]
    for name, options in point["rules"].items():
        ratios = np.divide(found["times"]["wall"][name], found["times"]["wall"][PLAIN])
        cpu = np.divide(found["times"]["cpu"][name], found["times"]["cpu"][PLAIN])
        sent = found["collectives"][name]
        limits = {"m": MICRO_BATCH_LIMIT, "ascent_steps": (options.get("ascent_steps", 1) + 1) / 2 * EXACT_LIMIT}
        rows.append(
            {
                "by": point["by"],
                "at": point["at"] or (name if len(point["rules"]) > 1 else found["parameters"]),
                "backend": point["backend"],
                "parameters": found["parameters"],
                "seconds": float(np.median(found["times"]["wall"][name])),
                "ratio": float(np.median(ratios)),
                "quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
                "cpu_ratio": float(np.median(cpu)),
                "limit": limits.get(point["by"]),
                "plain_collectives": [len(plain), sum(size for _, size in plain)],
                "collectives": [len(sent), sum(size for _, size in sent)],
                "weight_bytes": weights,
            }
        )
    return rows


def communicates_as_plain(row):
    """Whether a step sends no more than the gate allows; `None` for a single replica."""
    if row["plain_collectives"][0] == 0:
        return None
    (plain_count, plain_bytes), (count, size) = row["plain_collectives"], row["collectives"]
    below = size <= 1.02 * plain_bytes if row["backend"] == "tensorflow" else size <= 1.1 * row["weight_bytes"]
    return below and count <= plain_count


def measure(by, backends, **config):
    found = [
        summarize({**point, "backend": backend}, race_in_process(backend, **options, **config))
        for backend in backends
        for point in points()
        if point["by"] in by
        for options in [{key: value for key, value in point.items() if key not in ("by", "at")}]
    ]
    return {"config": {"by": by, "backends": backends, **config}, "rows": [row for rows in found for row in rows]}


def print_results(results):
    for by in dict.fromkeys(row["by"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["by"] == by]
        cells = [
            (
                f"{row['at']:,}" if isinstance(row["at"], int) else row["at"],
                row["backend"],
                f"{1e3 * row['seconds']:.1f}",
                f"{row['ratio']:.3f}",
                "{:.2f}–{:.2f}".format(*row["quartiles"]),
                f"{row['cpu_ratio']:.3f}",
                *report.verdict(row["ratio"], row["limit"]),
                *(f"{row[key][0]} / {row[key][1] / 1e3:,.1f}" for key in ("plain_collectives", "collectives")),
                f"{row['weight_bytes'] / 1e3:,.1f}",
                {None: "", True: "yes", False: "NO"}[communicates_as_plain(row)],
            )
            for row in rows
        ]
        header = (by, "on", "ms", "ratio", "quartiles", "cpu", "limit", "holds")
        header += ("plain sends", "SAM sends", "weights", "holds")
        caption = "sends: the collectives of a step and their kB, of one replica; weights in kB"
        report.print_table(f"SAM over {PLAIN}, by {by}", header, cells, caption)


def failures(rows):
    names = [f"{row['backend']}, {row['by']} {row['at']}" for row in rows]
    slow = report.failures(dict(zip(names, rows)))
    return slow + [name for name, row in zip(names, rows) if communicates_as_plain(row) is False]


def picture(results):
    """A row an axis: the time of SAM's step over plain's, and where there are several replicas what both send."""
    from matplotlib.figure import Figure

    axes_of = list(dict.fromkeys(row["by"] for row in results["rows"]))
    columns = 2 if any(row["collectives"][0] for row in results["rows"]) else 1
    figure = Figure(figsize=(5 * columns, 3.2 * len(axes_of)), layout="constrained")
    labels = {"m": "m, of a batch of b", "ascent_steps": "ascent steps k (dotted: k + 1)"}
    for (times, *others), by in zip(figure.subplots(len(axes_of), columns, squeeze=False), axes_of):
        sent = others[0] if others else None
        for backend, color in (("tensorflow", "tab:orange"), ("jax", "tab:blue")):
            rows = [row for row in results["rows"] if (row["backend"], row["by"]) == (backend, by)]
            places = [str(row["at"]).rpartition("= ")[2] for row in rows]
            places = places if by == "m" else [int(place) for place in places]
            medians = np.array([row["ratio"] for row in rows])
            error = np.abs(np.array([row["quartiles"] for row in rows]).reshape(-1, 2).T - medians)
            times.errorbar(places, medians, error, marker="o", capsize=3, color=color, label=backend)
            for key, style, name in (("plain_collectives", ":s", "plain"), ("collectives", "-o", "SAM")):
                several = [(at, row[key][1] / row["weight_bytes"]) for at, row in zip(places, rows) if row[key][0]]
                if several:
                    sent.plot(*zip(*several), style, color=color, fillstyle="none", label=f"{name}, {backend}")
        expected = [(1, 2), (4, 5)] if by == "ascent_steps" else None
        times.plot(*zip(*expected), ":k") if expected else times.axhline(2, color="black", linestyle=":")
        times.set(xlabel=labels.get(by, by), title=f"Time by {by}: SAM / plain")
        times.set_ylim(bottom=0)
        times.legend()
        if sent is None:
            continue
        if not sent.lines:
            sent.set_axis_off()
            continue
        sent.set(xlabel=labels.get(by, by), title="All-reduced bytes / bytes of the weights", ylim=(0.9, 1.15))
        sent.legend()
        if by == "parameters":
            times.set_xscale("log")
            sent.set_xscale("log")
    return figure


BY = ("replicas", "m", "ascent_steps", "parameters")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--by", nargs="+", choices=BY, default=list(BY), help="default: all")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each variant")
    parser.add_argument("--steps", type=int, default=5, help="steps of a block of the slowest variant")
    parser.add_argument("--output", help="JSON file for the results; the picture is beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate does not hold")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = vars(parser.parse_args(argv))
    output, check, child = options.pop("output"), options.pop("check"), options.pop("child")
    if child:
        print(json.dumps(race(**child)))
        return 0
    results = measure(**options)
    print_results(results)
    if output:
        report.save(output, results)
        report.save_figure(output, picture(results))
    return int(check and bool(failures(results["rows"])))


if __name__ == "__main__":
    sys.exit(main())
