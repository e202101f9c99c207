"""What a SAM step computes in units of the plain one: ours beside optax and the reference's formulation, on JAX.

```
KERAS_BACKEND=jax python benchmarks/peers_work.py --output results/peers_work.json
```

XLA counts the flops of each step's program and the bytes that it accesses; nothing is run, so that the numbers are the
same in every run. The networks and the steps are those of `peers.py`, whose clock is off by a tenth where others share
the processor. The limits: 2.01 times the plain step, and 1.01 times the same step of a peer.

Cost: about 4 minutes of one core, all of it compiling. It needs optax, which the extra `dev` installs.
"""

import argparse
import sys

import keras
import peers
import report

KEYS = "flops", "bytes accessed"
# Of the plain step's, and of a peer's SAM step. What a norm and a logged number cost shows in networks of toy size.
LIMIT, TOLERANCE = 2.01, 1.01


def measure(net, seed):
    """Dict from a contender to what its steps cost, `{"flops": {"plain": …, "sam": …, "ratio": …}, …}`."""
    make, options, batch_size = peers.NETS[net]
    keras.utils.set_random_seed(seed)
    found = {}
    for name, contender in peers.on_jax(make, options, batch_size).items():
        costs = {kind: lower().compile().cost_analysis() for kind, lower in contender.programs.items()}
        found[name] = {key: {kind: cost[key] for kind, cost in costs.items()} for key in KEYS}
        for of in found[name].values():
            of["ratio"] = of["sam"] / of["plain"]
    return found


def failures(found):
    """What does not hold, a list of texts."""
    ours = found[peers.OURS]
    failed = [f"{key}: {ours[key]['ratio']:.4f} of the plain step" for key in KEYS if ours[key]["ratio"] > LIMIT]
    for name, theirs in found.items():
        failed += [f"{key}: above {name}" for key in KEYS if ours[key]["sam"] > TOLERANCE * theirs[key]["sam"]]
    return failed


def print_results(net, found):
    cells = [
        (
            name,
            *(
                text
                for of in costs.values()
                for text in (f"{of['plain']:.4g}", f"{of['sam']:.4g}", f"{of['ratio']:.4f}")
            ),
        )
        for name, costs in found.items()
    ]
    header = ("SAM of", *(f"{kind} {key}" for key in KEYS for kind in ("plain", "SAM", "ratio of")))
    report.print_table(f"{net}: the program of a step", header, cells, "; ".join(failures(found)) or "all limits hold")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", choices=peers.NETS, default=list(peers.NETS)[:2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the results")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit does not hold")
    options = parser.parse_args(argv)
    if keras.backend.backend() != "jax":
        parser.error(f"It counts operations by JAX and Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax.")
    programs = {net: measure(net, options.seed) for net in options.nets}
    for net, found in programs.items():
        print_results(net, found)
    if options.output:
        report.save(options.output, {"config": {"seed": options.seed}, "programs": programs})
    return int(options.check and any(failures(found) for found in programs.values()))


if __name__ == "__main__":
    sys.exit(main())
