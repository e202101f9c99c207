"""SAM's training step in units of the plain one: keras_sam beside what others wrote, on each of Keras's backends.

```
python benchmarks/peers.py --output results/peers.json
python benchmarks/peers.py --profile --nets ResNet-20 --cores 1
```

ResNet-20 (batch 64) and WRN-16-4 (batch 32) on one constant CIFAR-shaped batch, SGD with momentum. Each backend has a
process of its own, in which all contenders take turns as in step_cost.py: a ratio is the median over rounds of a SAM
step's time over that of the *same* contender's plain step in the same round, so it says what SAM adds, and images a
second say what a whole framework makes of the machine.

`ascent` says what the pass that chooses ε̂ computes. tf_keras's runs in inference mode, so that BatchNormalization does
less there: its ratio is no measure for ours. optax.contrib.sam and the reference's formulation (google-research/sam:
two gradients, one global norm) train the Keras network through `stateless_call`; pytorch_optimizer trains a module of
plain torch, its images and weights in channels-last.

The gates: ours at most 2.0 on TensorFlow and JAX and 2.1 on torch, and not above a peer's ratio on the same backend
whose ascent does the same work. `above peer` is the median over rounds of the difference of the two ratios; "tie" where
its quartiles lie on both sides of 0.

A clock is off by a tenth where other machines share the processor; `peers_work.py` counts instead of timing.

`--cores 1` keeps all of it on one core: where other processes run, threads that wait for each other waste more time
than they save (torch's plain step took 2.1 processor seconds with two threads there and 0.31 with one). `--profile`
says which ops the plain steps of torch spend their time in.

Cost: about 10 minutes for both networks on 2 idle CPU cores with `--rounds 5`. It needs tf_keras, optax and
pytorch_optimizer, which the extra `dev` installs.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

import keras
import numpy as np
import report
import resnet
from compiled import lowered
from step_cost import batch_of, compiled, runner, take_turns

from keras_sam import SAM

RHO, RATE, MOMENTUM = 0.05, 1e-4, 0.9
LIMITS = {"tensorflow": 2.0, "jax": 2.0, "torch": 2.1}
PEERS = ("tf_keras", "pytorch_optimizer", "optax", "tensorflow", "jax", "torch")
# Name: the function that makes it, its options, its batch.
NETS = {
    "ResNet-20": (resnet.resnet, {}, 64),
    "WRN-16-4": (resnet.wide_resnet, {}, 32),
    "tiny": (resnet.resnet, {"depth": 8, "width": 2, "image_size": 8}, 2),
}
OURS = "keras_sam"


class Contender(NamedTuple):
    """A row: an implementation of SAM beside the plain step that it would have without.

    Args:
        plain: Function that runs a number of plain steps and waits for the last.
        sam: Likewise, of SAM steps.
        ascent: String, what the pass that chooses ε̂ computes.
        programs: Dict from `"plain"` and `"sam"` to functions that lower the step, on JAX. Defaults to `None`.
    """

    plain: Any
    sam: Any
    ascent: str = "training"
    programs: Any = None


def keras_contender(make, options, batch_size, data_format="channels_last"):
    """Ours, beside `keras.Model`."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    x, y = batch_of(batch_size, options.get("image_size", 32))
    if data_format == "channels_first":
        x = keras.ops.copy(keras.ops.transpose(x, (0, 3, 1, 2)))
    models = {kind: compiled(make(**options), rule) for kind, rule in (("plain", None), ("sam", SAM(RHO)))}
    keras.config.set_image_data_format(before)
    programs = {kind: functools.partial(lowered, model, x, y) for kind, model in models.items()}
    return Contender(**{kind: runner(model, (x, y)) for kind, model in models.items()}, programs=programs)


def on_tensorflow(make, options, batch_size):
    import tensorflow as tf
    import tf_keras

    def run(model):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.SGD(RATE, momentum=MOMENTUM), loss)
        step = model.make_train_function()
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
        return lambda steps: _finite([step(batches) for _ in range(steps)][-1]["loss"])

    batch = batch_of(batch_size, options.get("image_size", 32))
    sam = tf_keras.models.experimental.SharpnessAwareMinimization(make(library=tf_keras, **options), rho=RHO)
    return {
        OURS: keras_contender(make, options, batch_size),
        "tf_keras": Contender(run(make(library=tf_keras, **options)), run(sam), ascent="inference"),
    }


def on_jax(make, options, batch_size):
    import jax
    import optax

    x, y = batch_of(batch_size, options.get("image_size", 32))
    model = make(**options)
    sgd = optax.sgd(RATE, MOMENTUM)
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    optax_sam = optax.contrib.sam(sgd, adversary, sync_period=2, opaque_mode=True)

    def loss_of(weights, state):
        logits, state = model.stateless_call(weights, state, x, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)

    def plain(weights, state, kept):
        (loss, state), gradient = value_and_grad(weights, state)
        updates, kept = sgd.update(gradient, kept, weights)
        return loss, (optax.apply_updates(weights, updates), state, kept)

    def with_optax(weights, state, kept):
        (loss, after), gradient = value_and_grad(weights, state)
        grad_fn = lambda weights, _: value_and_grad(weights, state)[1]  # noqa: E731
        updates, kept = optax_sam.update(gradient, kept, weights, grad_fn=grad_fn)
        return loss, (optax.apply_updates(weights, updates), after, kept)

    def reference(weights, state, kept):
        (loss, after), gradient = value_and_grad(weights, state)
        scale = RHO / optax.global_norm(gradient)
        _, gradient = value_and_grad([w + scale * g for w, g in zip(weights, gradient)], state)
        updates, kept = sgd.update(gradient, kept, weights)
        return loss, (optax.apply_updates(weights, updates), after, kept)

    def run(step, optimizer):
        step = jax.jit(step, donate_argnums=(0, 1, 2))
        groups = model.trainable_variables, model.non_trainable_variables
        weights, state = ([keras.ops.copy(v.value) for v in group] for group in groups)
        carry = [(weights, state, optimizer.init(weights))]

        def steps_of(steps):
            for _ in range(steps):
                loss, carry[0] = step(*carry[0])
            _finite(loss)

        return steps_of, lambda: step.lower(*carry[0])

    def contender(step, optimizer):
        (plain_steps, plain_program), (sam_steps, sam_program) = run(plain, sgd), run(step, optimizer)
        return Contender(plain_steps, sam_steps, programs={"plain": plain_program, "sam": sam_program})

    return {
        OURS: keras_contender(make, options, batch_size),
        "optax.contrib.sam": contender(with_optax, optax_sam),
        "reference in JAX": contender(reference, sgd),
    }


def on_torch(make, options, batch_size):
    import pytorch_optimizer
    import torch
    import torch_nets

    x, y = batch_of(batch_size, options.get("image_size", 32))
    x = torch.permute(x, (0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    options_of_net = {name: value for name, value in options.items() if name != "image_size"}

    def net():
        return getattr(torch_nets, make.__name__)(**options_of_net).to(memory_format=torch.channels_last)

    def plain():
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)

        def step():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return lambda steps: _finite([step() for _ in range(steps)][-1])

    def sam():
        model = net()
        optimizer = pytorch_optimizer.SAM(model.parameters(), torch.optim.SGD, rho=RHO, lr=RATE, momentum=MOMENTUM)

        def step():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.first_step(zero_grad=True)
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.second_step(zero_grad=True)
            return loss.detach()

        return lambda steps: _finite([step() for _ in range(steps)][-1])

    return {
        OURS: keras_contender(make, options, batch_size),
        f"{OURS}, channels_first": keras_contender(make, options, batch_size, "channels_first"),
        "pytorch_optimizer": Contender(plain(), sam()),
    }


CONTENDERS = {"tensorflow": on_tensorflow, "jax": on_jax, "torch": on_torch}


def _finite(loss):
    if not np.isfinite(float(loss)):
        raise FloatingPointError(f"The loss is {float(loss)}: a diverged model is not the training that is timed.")


def race(net, steps, rounds, seed=0):
    """What one process does: the contenders of its backend on one network; rows and times."""
    make, options, batch_size = NETS[net]
    keras.utils.set_random_seed(seed)
    contenders = CONTENDERS[keras.backend.backend()](make, options, batch_size)
    runs = {(name, kind): getattr(c, kind) for name, c in contenders.items() for kind in ("plain", "sam")}
    times, _ = take_turns(runs, steps, rounds, seed)
    times = {
        clock: {name: {kind: of[name, kind] for kind in ("plain", "sam")} for name in contenders}
        for clock, of in times.items()
    }
    return {
        "rows": summarize(times, batch_size, {name: c.ascent for name, c in contenders.items()}),
        "times": times,
        "versions": {name: v for name in PEERS if (v := _version(name))},
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def summarize(times, batch_size, ascents, limit=None):
    """A dict from a contender's name to a row; ours with the gates.

    Args:
        times: Dict from a clock to a dict from a contender to `{"plain": seconds a step, "sam": …}`, one a round.
        batch_size: Integer.
        ascents: Dict from a contender to what its ascent computes.
        limit: Float, of our ratio. Defaults to the backend's.
    """
    limit = limit or LIMITS[keras.backend.backend()]
    ratios = {name: np.divide(t["sam"], t["plain"]) for name, t in times["wall"].items()}
    rows = {}
    for name, wall in times["wall"].items():
        cpu = times["cpu"][name]
        rows[name] = {
            "plain_seconds": statistics.median(wall["plain"]),
            "ratio": float(np.median(ratios[name])),
            "quartiles": [float(q) for q in np.quantile(ratios[name], [0.25, 0.75])],
            "cpu_ratio": float(np.median(np.divide(cpu["sam"], cpu["plain"]))),
            "sam_images_per_second": batch_size / statistics.median(wall["sam"]),
            "plain_images_per_second": batch_size / statistics.median(wall["plain"]),
            "ascent": ascents[name],
            "limit": limit if name == OURS else None,
        }
    peers = [n for n in rows if not n.startswith(OURS) and ascents[n] == ascents[OURS]]
    rows[OURS]["above_peers"] = {
        peer: [float(q) for q in np.quantile(ratios[OURS] - ratios[peer], [0.25, 0.5, 0.75])] for peer in peers
    }
    return rows


def standing(difference):
    """Whether ours is not above a peer, given the quartiles of the difference of the two ratios."""
    lower, _, upper = difference
    return "yes" if upper <= 0 else "NO" if lower > 0 else "tie"


def failures(races):
    """What does not hold: a limit, or a peer's ratio that ours lies above."""
    failed = [f"{race['backend']}, {race['net']}: limit" for race in races if report.failures(race["rows"])]
    for race in races:
        for peer, difference in race["rows"][OURS]["above_peers"].items():
            if standing(difference) == "NO":
                failed.append(f"{race['backend']}, {race['net']}: above {peer}")
    return failed


def profile(net, seed=0):
    """What one process does with `--profile`: milliseconds a step of each contender's plain step, by op."""
    import torch

    make, options, batch_size = NETS[net]
    keras.utils.set_random_seed(seed)
    found = {}
    for name, contender in on_torch(make, options, batch_size).items():
        contender.plain(2)
        with torch.profiler.profile() as profiler:
            contender.plain(2)
        spent = {event.key: event.self_cpu_time_total / 2e3 for event in profiler.key_averages()}
        found[name] = dict(sorted(spent.items(), key=lambda item: -item[1]))
    return found


def print_profile(found, count=8):
    for name, spent in found.items():
        total = sum(spent.values())
        cells = [(op, f"{ms:.1f}", f"{ms / total:.0%}") for op, ms in list(spent.items())[:count]]
        report.print_table(f"{name}: {total:.0f} ms a plain step", ("op", "ms", "share"), cells)


def in_process(backend, flags=(), **config):
    command = [sys.executable, __file__, *flags, "--child", json.dumps(config)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"The race on {backend} failed with exit code {done.returncode}; its error is above.")
    return json.loads(done.stdout.splitlines()[-1])


def measure(backends, nets, steps, rounds, seed):
    """Every backend and network, one after the other; returns what is written as JSON, the environment aside."""
    races, versions = [], {}
    for net in nets:
        for backend in backends:
            found = in_process(backend, net=net, steps=steps, rounds=rounds, seed=seed)
            versions |= found.pop("versions")
            races.append({"backend": backend, "net": net, "batch_size": NETS[net][2], **found})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    config = {"steps": steps, "rounds": rounds, "seed": seed, "cores": cores}
    return {"config": config, "peer_versions": versions, "races": races}


def print_results(results):
    for race in results["races"]:
        cells = [
            (
                name,
                f"{1e3 * row['plain_seconds']:.0f}",
                f"{row['plain_images_per_second']:.0f}",
                f"{row['sam_images_per_second']:.0f}",
                f"{row['ratio']:.3f}",
                "{:.2f}–{:.2f}".format(*row["quartiles"]),
                f"{row['cpu_ratio']:.3f}",
                row["ascent"],
                *report.verdict(row["ratio"], row["limit"]),
            )
            for name, row in race["rows"].items()
        ]
        differences = race["rows"][OURS]["above_peers"]
        notes = [f"above {p}: {d[1]:+.3f} ({d[0]:+.3f} – {d[2]:+.3f}) {standing(d)}" for p, d in differences.items()]
        report.print_table(
            f"{race['net']}, batch {race['batch_size']}, on {race['backend']}",
            ("SAM of", "plain ms", "plain im/s", "SAM im/s", "ratio", "quartiles", "cpu", "ascent", "limit", "holds"),
            cells,
            "; ".join(notes),
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backends", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="default: all")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS)[:2])
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each contender")
    parser.add_argument("--steps", type=int, default=1, help="steps of a block of the slowest contender")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, help="how many of the machine's cores to use, on Linux; default: all")
    parser.add_argument("--profile", action="store_true", help="time the ops of the plain steps instead (torch)")
    parser.add_argument("--output", help="JSON file for the results; the picture is beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a gate does not hold")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = vars(parser.parse_args(argv))
    output, check, child, cores, by_op = (options.pop(n) for n in ("output", "check", "child", "cores", "profile"))
    if child:
        print(json.dumps(profile(**child) if by_op else race(**child)), flush=True)
        # A process that had run torch's profiler crashed while it ended.
        return os._exit(0) if by_op else 0
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    if by_op:
        for net in options["nets"]:
            print_profile(in_process("torch", ["--profile"], net=net))
        return 0
    results = measure(**options)
    print_results(results)
    if output:
        report.save(output, results)
        report.save_figure(output, picture(results))
    return int(check and bool(failures(results["races"])))


def picture(results):
    """Ratios with their quartiles, and images a second, a row a contender."""
    from matplotlib.figure import Figure

    note = "whiskers: quartiles over rounds; palest bar: its ascent runs in inference mode"
    nets = list(dict.fromkeys(race["net"] for race in results["races"]))
    figure = Figure(figsize=(11, 0.9 + 3.4 * len(nets)), layout="constrained")
    for (ratios, speeds), net in zip(np.atleast_2d(figure.subplots(len(nets), 2)), nets):
        races = [race for race in results["races"] if race["net"] == net]
        rows = [(race["backend"], name, row) for race in races for name, row in race["rows"].items()]
        labels = [f"{name} ({backend})" for backend, name, _ in rows]
        places = np.arange(len(rows))[::-1]
        for place, (_, name, row) in zip(places, rows):
            color = "tab:blue" if name.startswith(OURS) else "0.6" if row["ascent"] == "training" else "0.85"
            low, high = row["quartiles"]
            error = [[row["ratio"] - low], [high - row["ratio"]]]
            ratios.barh(place, row["ratio"], color=color, xerr=error, ecolor="black")
            ratios.text(0.05, place, f"{row['ratio']:.2f}", va="center", color="white" if color == "tab:blue" else "k")
            speeds.barh(place + 0.2, row["plain_images_per_second"], 0.4, color=color, alpha=0.45)
            speeds.barh(place - 0.2, row["sam_images_per_second"], 0.4, color=color)
        ratios.axvline(2, color="black", linewidth=0.8, linestyle=":")
        ratios.set(yticks=places, yticklabels=labels, title=f"{net}: SAM step / its own plain step", xlabel=note)
        speeds.set(yticks=places, yticklabels=[], title="images a second: plain (pale) and SAM", xlabel="images / s")
    return figure


if __name__ == "__main__":
    sys.exit(main())
