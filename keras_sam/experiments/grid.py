"""Many runs, each in a process of its own: one after the other here, or on a Ray cluster."""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
import socket
import subprocess
import sys

from keras_sam.experiments import recipes, results, runner
from keras_sam.experiments.runner import Run

TUNE = {
    "rho": lambda row: [{"rho": rho} for rho in row.rhos],
    "lr-wd": lambda row: [
        {"learning_rate": rate, "weight_decay": decay}
        for rate, decay in itertools.product(row.learning_rates, row.weight_decays)
    ],
}
# In the name of a method that is about one ρ, which no tuning replaces.
FIXED_RHO = "rho-"
# The first seed to choose by: those from 0 on, which count, stay fresh.
TUNING_SEED = 100


def expand(table, rows=None, methods=None, seeds=None, tune=None, tuned=None, **options):
    """The runs of a grid.

    Args:
        table: Name of a table or figure.
        rows: Names of rows. Defaults to `None`, all.
        methods: Names of methods, for the rows that have them. Defaults to `None`, all that a row has; with `tune`
            those that it chooses for.
        seeds: Int, how many seeds, from 0 on, or with `tune` from `TUNING_SEED` on. Defaults to `None`, as many as the
            paper.
        tune: Key of `TUNE`, to train every value of it on nine tenths of the training set. Defaults to `None`.
        tuned: Folder of results, to take for each method with a rule the ρ that `tune="rho"` found there, but for those
            whose name says theirs (`rho-0.05`) or that have a schedule. Without `methods` those for which it found none
            are left out, unless it found none at all. Defaults to `None`, the recipe's.
        **options: Further fields of every `Run`.

    Returns:
        List of `Run`s.

    Raises:
        ValueError: If nothing was tuned in that folder, or no row has one of the methods.
    """
    known = recipes.module(table).ROWS
    runs = []
    for name in rows or known:
        row = known[name]
        first = TUNING_SEED if tune else 0
        variants = TUNE[tune](row) if tune else [{}]
        held_out = {"held_out": recipes.HELD_OUT} if tune and not row.held_out else {}
        names = [name for name in methods or _methods(row, tune) if _can(row, name, tune)]
        of_methods = [Run(table=table, row=name, method=method, **options, **held_out) for method in names]
        if tuned:
            of_methods = _tuned(of_methods, row, tuned, is_needed=methods is not None)
        for run in of_methods:
            for seed in range(first, first + (seeds or row.num_seeds)):
                runs += [dataclasses.replace(run, seed=seed, **variant) for variant in variants]
    if not runs:
        raise ValueError(
            f"No row of {table} has a method to train: received {list(rows or known)} with {methods or 'all'}"
            f"{f' and tune={tune!r}' if tune else ''}. A ρ is tuned for methods that have one, learning rate and "
            "weight decay for `sgd`; `keras-sam list` names those of each row."
        )
    return runs


def _tuned(runs, row, output, is_needed):
    """The runs of a row with the ρ that was chosen, and those that need none; others only if all of them are needed."""
    kept, errors = [], []
    for run in runs:
        if not row.methods[run.method].has_rho or FIXED_RHO in run.method:
            kept.append(run)
            continue
        try:
            kept.append(dataclasses.replace(run, rho=best_rho(run, row, output)))
        except ValueError as error:
            errors.append(error)
    if errors and (is_needed or not any(run.rho for run in kept)):
        raise errors[0]
    return kept


def best_rho(run, row, output):
    """The ρ with the lowest mean validation error over the seeds that `tune="rho"` has trained.

    Raises:
        ValueError: If there are none, or not as many for each ρ.
    """
    held_out, errors = None if row.held_out else recipes.HELD_OUT, {}
    for rho in row.rhos:
        folder = dataclasses.replace(run, rho=rho, held_out=held_out).path(output).parent
        paths = [p for p in folder.glob("seed-*.json") if int(p.stem.removeprefix("seed-")) >= TUNING_SEED]
        errors[rho] = [results.read_json(path)["result"]["validation_error"] for path in sorted(paths)]
    counts = {len(values) for values in errors.values()}
    if counts != {max(counts)} or not max(counts):
        raise ValueError(
            f"The ρ of {run.method} for {run.table} {run.row} is not tuned in {output}: expected as many seeds of each "
            f"of {list(row.rhos)}, found {[len(values) for values in errors.values()]}. First run "
            f"`keras-sam grid {run.table} --row {run.row} --method {run.method} --tune rho --seeds 3 --output "
            f"{output}`."
        )
    return min(errors, key=lambda rho: sum(errors[rho]))


def _can(row, name, tune):
    """Whether a row has a method, and that method the hyperparameter that is to be tuned."""
    return name in row.methods and (tune != "rho" or row.methods[name].has_rho)


def _methods(row, tune):
    if tune == "lr-wd":
        return ["sgd"]
    if tune == "rho" and "sam" in row.methods:
        return ["sam"]
    return [name for name in row.methods if not (tune == "rho" and FIXED_RHO in name)]


def command(run, output, data_dir=None, download=False):
    """The command line that makes `run`."""
    arguments = [sys.executable, "-m", "keras_sam.experiments.main", "run", run.table]
    for field in dataclasses.fields(run):
        value, name = getattr(run, field.name), f"--{field.name.replace('_', '-')}"
        if field.name == "table" or value == field.default:
            continue
        arguments += [name] if value is True else [name, str(value)]
    arguments += ["--output", str(output)]
    arguments += ["--data-dir", str(data_dir)] if data_dir else []
    return arguments + (["--download"] if download else [])


def execute(runs, output, workers=1, ray=None, cpus=1, gpus=0, console=None, **data_options):
    """Make every run whose result is not there yet.

    Args:
        runs: List of `Run`s.
        output: Folder of the results.
        workers: Int, how many processes at a time on this machine. Defaults to `1`.
        ray: Address of a Ray cluster (`"auto"` for the one of this machine), whose nodes have keras_sam and the data.
            It schedules the runs, and begins those of a lost node again. Defaults to `None`, no cluster.
        cpus: Float, what a run asks Ray for. Defaults to `1`.
        gpus: Float, likewise. Defaults to `0`.
        console: `rich.console.Console`, to say what is done. Defaults to `None`.
        **data_options: `data_dir` and `download`, as in `runner.run`.

    Returns:
        Dict from runs that failed to what they said.

    Raises:
        ValueError: If a result that is there is of other settings; nothing is trained then.
    """
    missing = []
    for run in runs:
        if run.path(output).exists():
            runner.read_same(run.path(output), runner.settings_of(run))
        else:
            missing.append(run)
    if console and len(missing) < len(runs):
        there = f"{len(runs) - len(missing)} of {len(runs)} results are in {output} already and are not made again"
        console.print(f"{there}: give another `--output` for that.")
    if ray:
        finished = on_ray(missing, functools.partial(runner.run, output=output, **data_options), ray, cpus, gpus)
    else:
        finished = _here({run: command(run, output, **data_options) for run in missing}, output, workers)
    failed = {}
    for number, (run, content, error) in enumerate(finished, 1):
        path = run.path(output)
        if error:
            failed[run] = error
        elif not path.exists():  # made on a node that does not share this folder
            path.parent.mkdir(parents=True, exist_ok=True)
            results.write_json(path, content)
        if console:
            console.print(f"{number}/{len(missing)} {path} {'failed' if error else ''}", markup=False)
    return failed


def _here(commands, output, workers):
    def train(run, arguments):
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode == 0:
            return run, results.read_json(run.path(output)), None
        return run, None, "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])

    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        futures = [pool.submit(train, run, arguments) for run, arguments in commands.items()]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    finally:  # an interruption ends what runs, and begins nothing more
        pool.shutdown(wait=False, cancel_futures=True)


def on_ray(runs, train, address, cpus=1, gpus=0):
    """Spread runs over a Ray cluster, each in a new process; a run whose node is lost begins again on another.

    Args:
        runs: List of what to run.
        train: Function from one of them to its result.
        address: As in `execute`; so are `cpus` and `gpus`.

    Yields:
        The run, its result or `None`, and what it said if it failed, as soon as it ended.

    Raises:
        ValueError: If nothing answers at that address.
    """
    import ray

    _check_reachable(address)
    backend = {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}
    ray.init(address=address, runtime_env={"env_vars": backend}, ignore_reinit_error=True)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1, max_calls=1)(train)
    running = {task.remote(run): run for run in runs}
    while running:
        reference = ray.wait(list(running))[0][0]
        run = running.pop(reference)
        try:
            yield run, ray.get(reference), None
        except ray.exceptions.RayTaskError as error:
            yield run, None, str(error)


def _check_reachable(address):
    """Ray itself waits for minutes, and then does not say for which address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto", which Ray looks up
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ValueError(
            f"Received `--ray {address}`, where nothing answers ({error}); expected the address that `ray start "
            "--head` has printed, or `auto` for the cluster of this machine."
        ) from error
