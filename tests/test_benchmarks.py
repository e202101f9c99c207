"""The benchmarks end to end at a tiny size, and their arithmetic on times that are made up."""

import json
import pathlib
import shutil
import sys

import keras
import numpy as np
import psutil
import pytest
from conftest import required

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu_hours
import memory
import peers
import peers_work
import projection
import report
import scaling
import step_cost
from resnet import resnet, wide_resnet

import keras_sam
from keras_sam import SAM
from keras_sam.experiments import recipes

PLAIN, RHO, ZERO = step_cost.PLAIN, "SAM(rho=0.05)", "SAM(rho=0)"
TINY = ["--batch-size", "2", "--rounds", "2", "--steps", "5", "--depth", "8", "--image-size", "8"]


class Clock:
    """Seconds that pass only when a made-up run says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def runs(self, costs, seen):
        def run(name, steps):
            seen.append((name, steps))
            self.now += sum(next(costs[name]) for _ in range(steps))

        return {name: lambda steps, name=name: run(name, steps) for name in costs}


def cycle(*costs):
    while True:
        yield from costs


def test_blocks_are_timed_whole_and_last_equally_long_after_a_warm_up():
    """A rule that costs 4 on every fifth step and 1 else costs 1.6, which no single step of it takes."""
    clock, seen = Clock(), []
    costs = {PLAIN: cycle(1.0), "lazy": cycle(1.0, 1.0, 1.0, 1.0, 4.0), "slow start": cycle(*[9.0] * 10, *[2.0] * 40)}
    times, blocks = step_cost.take_turns(clock.runs(costs, seen), steps=10, rounds=3, clocks={"made-up": clock})
    assert times == {"made-up": {PLAIN: [1.0] * 3, "lazy": [1.6] * 3, "slow start": [2.0] * 3}}
    assert blocks == {PLAIN: 20, "lazy": 10, "slow start": 10}
    assert seen[:6] == [(PLAIN, 10), ("lazy", 10), ("slow start", 10)] * 2
    assert [sorted(seen[i : i + 3]) for i in (6, 9, 12)] == [sorted(blocks.items())] * 3


def test_the_order_changes_from_round_to_round_and_follows_the_seed():
    def order(seed):
        seen, clock = [], Clock()
        runs = clock.runs({name: cycle(1.0) for name in "abcd"}, seen)
        step_cost.take_turns(runs, steps=1, rounds=20, seed=seed, clocks={"made-up": clock})
        return "".join(name for name, _ in seen[8:])

    assert order(0) == order(0) != order(1)
    assert len({order(0)[i : i + 4] for i in range(0, 80, 4)}) > 10


def test_a_ratio_is_the_median_over_rounds_of_the_ratio_in_a_round():
    """The machine slows down by 10 in the third round, which moves a ratio of medians but not this one."""
    wall = {PLAIN: [1.0, 2.0, 20.0, 1.0, 4.0], RHO: [1.5, 4.0, 44.0, 1.9, 8.4], ZERO: [1.0, 2.0, 22.0, 1.0, 4.4]}
    cpu = {PLAIN: [1.0] * 5, RHO: [1.0, 2.0, 3.0, 4.0, 5.0], ZERO: [1.0] * 5}
    rows = step_cost.summarize({"wall": wall, "cpu": cpu})
    assert rows[PLAIN] == {
        "seconds_per_step": 2.0,
        "ratio": 1.0,
        "quartiles": [1.0, 1.0],
        "cpu_ratio": 1.0,
        "limit": None,
    }
    assert rows[RHO] == {
        "seconds_per_step": 4.0,
        "ratio": 2.0,
        "quartiles": pytest.approx([1.9, 2.1], rel=1e-12),
        "cpu_ratio": 3.0,
        "limit": 2.0,
    }
    assert rows[ZERO]["quartiles"] == pytest.approx([1.0, 1.1], rel=1e-12)
    assert report.failures(rows) == []


def test_the_gates():
    rows = {"a": {"ratio": 2.01, "limit": 2.0}, "b": {"ratio": 2.0, "limit": 2.0}, "c": {"ratio": 9.0, "limit": None}}
    assert report.failures(rows) == ["a"]
    assert report.failures({"a": {"ratio": float("nan"), "limit": 2.0}}) == ["a"]
    assert [report.verdict(r["ratio"], r["limit"]) for r in rows.values()] == [
        ("≤ 2.00", "NO"),
        ("≤ 2.00", "yes"),
        ("", ""),
    ]


def test_memory_is_counted_in_units_of_the_weights():
    peaks = {memory.IMPORTS: [7, 5, 6], PLAIN: [46, 99, 36], RHO: [66, 65, 40], ZERO: [46, 46, 47]}
    peaks = {name: [mb * 10**6 for mb in values] for name, values in peaks.items()}
    rows = memory.summarize(peaks, weight_bytes=10 * 10**6)
    assert rows == {
        PLAIN: {"peak_mb": 46, "spread_mb": 63, "weights": 4.0, "extra_mb": 0, "ratio": 0.0, "limit": None},
        RHO: {"peak_mb": 65, "spread_mb": 26, "weights": 5.9, "extra_mb": 19, "ratio": 1.9, "limit": 2.2},
        ZERO: {"peak_mb": 46, "spread_mb": 1, "weights": 4.0, "extra_mb": 0, "ratio": 0.0, "limit": 0.1},
    }


def test_the_peak_counts_what_was_freed_since():
    before = memory.peak_bytes()
    size = before - psutil.Process().memory_info().rss + 64 * 2**20
    np.ones(size, "uint8")
    assert 63 * 2**20 < memory.peak_bytes() - before < 66 * 2**20


def test_resnet_20_is_the_cifar_resnet():
    """0.27 million weights (He et al., 2016, table 6); the projections of the 2 shortcuts are 2,560 and 192 of BN."""
    model = resnet()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 19
    assert len([c for c in convolutions if c.kernel_size == (1, 1)]) == 2
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 272_474
    assert model.output_shape == (None, 10)
    with pytest.raises(ValueError, match="depth=18"):
        resnet(18)


def test_wrn_16_4_is_the_wide_resnet():
    """2.7 million weights (Zagoruyko and Komodakis, 2016, table 4), 2.75 with the shortcuts' projections."""
    model = wide_resnet()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [len([c for c in convolutions if c.kernel_size[0] == size]) for size in (3, 1)] == [13, 3]
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 2_748_890
    with pytest.raises(ValueError, match="depth=18"):
        wide_resnet(18)


@pytest.mark.parametrize("net", [resnet, wide_resnet])
def test_the_networks_are_the_same_in_tf_keras_and_for_channels_first(net):
    library = required("tf_keras")
    shapes = [tuple(v.shape) for v in net(10 if net is wide_resnet else 8).trainable_variables]
    theirs = net(10 if net is wide_resnet else 8, library=library)
    assert [tuple(v.shape) for v in theirs.trainable_variables] == shapes
    keras.config.set_image_data_format("channels_first")
    try:
        model = net(10 if net is wide_resnet else 8)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.input_shape == (None, 3, 32, 32)
    assert [tuple(v.shape) for v in model.trainable_variables] == shapes


def test_plain_keras_and_a_rule_are_what_is_compared():
    model = step_cost.compiled(memory.dense_net((2, 3)), None)
    assert not isinstance(model, keras_sam.SAMTrainer)
    rules = [variant.rule for variant in step_cost.VARIANTS.values()]
    assert rules[0] is None
    assert all(isinstance(keras_sam.rules.get(rule), SAM) for rule in rules[1:])
    assert float(step_cost.constant(0.05)(10**6)) == np.float32(0.05)


def test_the_runner_trains_by_the_steps_it_is_asked_for():
    model = step_cost.compiled(memory.dense_net((2, 3)), SAM(rho=0.1))
    run = step_cost.runner(model, (keras.ops.ones((4, 2)), keras.ops.zeros(4)))
    run(3)
    assert int(model.optimizer.iterations) == 3
    # Of the logits, since a ReLU makes NaN 0 on some processors.
    model.layers[-1].bias.assign(np.full(10, np.nan))
    with pytest.raises(FloatingPointError, match="loss is nan"):
        run(1)


def test_step_cost_runs(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert step_cost.main(["--variants", RHO, "--output", str(path), *TINY]) == 0
    results = json.loads(path.read_text())
    assert results["versions"]["keras"] == keras.__version__
    assert results["versions"]["keras_sam"] == keras_sam.__version__
    assert results["backend"] == "tensorflow"
    assert set(results) >= {"command", "commit", "date", "devices", "machine"}
    config = {"batch_size": 2, "steps": 5, "rounds": 2, "depth": 8, "image_size": 8, "seed": 0}
    assert results["config"].items() >= config.items()
    assert results["rows"] == step_cost.summarize(results["times"])
    assert all(steps % 5 == 0 for steps in results["blocks"].values())
    assert all(len(times) == 2 for clock in results["times"].values() for times in clock.values())
    assert list(results["rows"]) == [PLAIN, RHO]
    printed = capsys.readouterr().out
    assert f"{results['rows'][RHO]['ratio']:.3f}" in printed
    assert list(tmp_path.iterdir()) == [path]


def test_memory_runs(tmp_path, capsys):
    path = tmp_path / "results.json"
    options = ["--widths", "32", "16", "--batch-size", "2", "--steps", "2", "--repeats", "1", "--output", str(path)]
    assert memory.main(["--variants", PLAIN, *options]) == 0
    results = json.loads(path.read_text())
    assert results["config"]["weight_bytes"] == 4 * (32 * 16 + 16 + 16 * 10 + 10)
    assert list(results["peaks"]) == [memory.IMPORTS, PLAIN]
    assert results["peaks"][PLAIN][0] > results["peaks"][memory.IMPORTS][0] > 10**8
    assert results["rows"] == memory.summarize(results["peaks"], results["config"]["weight_bytes"])
    assert f"{results['rows'][PLAIN]['peak_mb']:.0f}" in capsys.readouterr().out


def test_every_variant_trains_in_the_memory_benchmark():
    for name in step_cost.VARIANTS:
        assert memory.train(name, widths=[4, 3], batch_size=2, steps=1)["weight_bytes"] == 4 * (4 * 3 + 3 + 3 * 10 + 10)


@pytest.mark.parametrize("script", [step_cost, memory])
def test_check_decides_the_exit_code(script, monkeypatch):
    rows = {PLAIN: {"ratio": 3.0, "limit": 2.0}}
    monkeypatch.setattr(script, "measure", lambda *args, **kwargs: {"rows": rows})
    monkeypatch.setattr(script, "print_results", lambda results: None)
    assert script.main([]) == 0
    assert script.main(["--check"]) == 1
    rows[PLAIN]["ratio"] = 2.0
    assert script.main(["--check"]) == 0


def test_a_failed_child_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match=r"keras\.Model failed with exit code 1"):
        memory.train_in_process(PLAIN, widths=[2, 3], batch_size=1, steps=1)


@pytest.mark.usefixtures("eager_functions")
def test_hessian_runs(tmp_path):
    import hessian

    output = tmp_path / "hessian.json"
    rows = hessian.main(
        ["--images", "6", "--rounds", "2", "--depth", "8", "--image-size", "8", "--output", str(output)]
    )
    content = json.loads(output.read_text())
    seconds = content["seconds"]
    assert rows["product / gradient"]["ratio"] == pytest.approx(
        np.median(np.divide(seconds["product"], seconds["gradient"]))
    )
    assert content["rows"]["lambda_max / epoch"]["ratio"] == content["lambda_max"] / content["epoch"]
    by_processor = content["rows"]["the same, processor time"]["ratio"]
    assert by_processor == content["lambda_max_cpu"] / content["epoch_cpu"]
    # ARPACK begins with as many as it keeps.
    assert content["num_products"] >= 20


@pytest.mark.usefixtures("eager_functions")
def test_sharpness_logger_runs(tmp_path):
    import sharpness_logger

    output = tmp_path / "logger.json"
    rows = sharpness_logger.main(["--epochs", "1", "--rounds", "1", "--images", "4", "--output", str(output)])
    seconds = json.loads(output.read_text())["seconds"]
    assert rows["SharpnessLogger"]["ratio"] == pytest.approx(seconds["with"][0] / seconds["without"][0])


def test_a_contender_is_measured_by_its_own_plain_step():
    """The peer's ratios are 2.1, 2.5 and 1.9 round by round; the other's ascent does less, and does not count."""
    wall = {
        "keras_sam": {"plain": [1.0, 2.0, 1.0], "sam": [2.0, 4.2, 1.8]},
        "peer": {"plain": [10.0, 10.0, 20.0], "sam": [21.0, 25.0, 38.0]},
        "less": {"plain": [1.0] * 3, "sam": [1.2] * 3},
    }
    cpu = {name: {"plain": [2.0] * 3, "sam": [3.0, 4.0, 5.0]} for name in wall}
    ascents = {"keras_sam": "training", "peer": "training", "less": "inference"}
    rows = peers.summarize({"wall": wall, "cpu": cpu}, batch_size=8, ascents=ascents)
    assert [rows[name]["ratio"] for name in wall] == pytest.approx([2.0, 2.1, 1.2])
    assert rows["keras_sam"]["quartiles"] == pytest.approx([1.9, 2.05])
    assert rows["peer"] == {
        "plain_seconds": 10.0,
        "ratio": pytest.approx(2.1),
        "quartiles": pytest.approx([2.0, 2.3]),
        "cpu_ratio": 2.0,
        "sam_images_per_second": 8 / 25,
        "plain_images_per_second": 0.8,
        "ascent": "training",
        "limit": None,
    }
    assert list(rows["keras_sam"]["above_peers"]) == ["peer"]
    assert rows["keras_sam"]["above_peers"]["peer"] == pytest.approx([-0.25, -0.1, -0.1])


def test_the_gates_beside_peers():
    assert [peers.standing(d) for d in ([-0.2, -0.1, 0.0], [-0.1, 0.05, 0.1], [0.01, 0.1, 0.2])] == ["yes", "tie", "NO"]
    row = {"ratio": 2.1, "limit": 2.0, "above_peers": {"a": [0.01, 0.1, 0.2], "b": [-0.1, 0.0, 0.1]}}
    race = {"backend": "jax", "net": "tiny", "rows": {"keras_sam": row}}
    assert peers.failures([race]) == ["jax, tiny: limit", "jax, tiny: above a"]


def test_peers_run(tmp_path, capsys):
    required("tf_keras")
    path = tmp_path / "peers.json"
    assert peers.main(["--nets", "tiny", "--backends", "tensorflow", "--rounds", "1", "--output", str(path)]) == 0
    results = json.loads(path.read_text())
    (race,) = results["races"]
    assert set(race["rows"]) == {"keras_sam", "tf_keras"}
    assert race["rows"]["tf_keras"]["ascent"] == "inference"
    ascents = {name: row["ascent"] for name, row in race["rows"].items()}
    assert race["rows"] == peers.summarize(race["times"], 2, ascents)
    assert set(results["peer_versions"]) >= {"tensorflow", "tf_keras"}
    assert f"{race['rows']['tf_keras']['ratio']:.3f}" in capsys.readouterr().out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_more_work_than_a_peer_or_than_two_gradients_fails():
    def costs(plain, sam):
        return {key: {"plain": plain, "sam": sam, "ratio": sam / plain} for key in peers_work.KEYS}

    found = {peers.OURS: costs(100, 200), "optax.contrib.sam": costs(120, 199)}
    assert peers_work.failures(found) == []
    found["optax.contrib.sam"]["flops"]["sam"] = 198
    assert peers_work.failures(found) == ["flops: above optax.contrib.sam"]
    found = {peers.OURS: costs(100, 202)}
    assert peers_work.failures(found) == ["flops: 2.0200 of the plain step", "bytes accessed: 2.0200 of the plain step"]


def test_the_collectives_of_a_graph_are_counted_for_one_replica():
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    other = graph.library.function.add()
    for replica in range(2):
        for node, shape, dtype in [
            (graph.node.add(), [3, 5], tf.float32),
            (other.node_def.add(), [], tf.float64),
        ]:
            node.name, node.op = f"{replica}", "CollectiveReduceV2"
            node.attr["T"].type = dtype.as_datatype_enum
            node.attr["_output_shapes"].list.shape.append(tf.TensorShape(shape).as_proto())
    graph.node.add(name="sum", op="AddN")
    found = scaling.collectives_in(graph, replicas=2)
    assert found == [("CollectiveReduceV2", 8), ("CollectiveReduceV2", 60)]


@pytest.mark.parametrize(
    ("backend", "sent", "expected"),
    [
        ("tensorflow", [1, 102], True),
        ("tensorflow", [1, 103], False),
        ("tensorflow", [3, 100], False),
        ("jax", [2, 110], True),
        ("jax", [2, 111], False),
    ],
)
def test_the_gate_of_communication(backend, sent, expected):
    row = {"backend": backend, "plain_collectives": [2, 100], "collectives": sent, "weight_bytes": 100}
    assert scaling.communicates_as_plain(row) is expected
    assert scaling.communicates_as_plain({**row, "plain_collectives": [0, 0]}) is None
    row |= {"by": "m", "at": 4, "ratio": 2.0, "limit": 2.2}
    assert scaling.failures([row]) == ([] if expected else [f"{backend}, m 4"])


def test_scaling_runs(tmp_path, monkeypatch, capsys):
    """Two replicas of a dense net of 17 parameters, of which plain Keras and SAM send the same bytes."""
    point = {"by": "parameters", "at": None, "replicas": 2, "net": {"widths": [2, 1]}, "rules": {"SAM": {}}}
    monkeypatch.setattr(scaling, "points", lambda: [point])
    path = tmp_path / "scaling.json"
    options = ["--backends", "tensorflow", "--rounds", "1", "--steps", "1", "--output", str(path), "--check"]
    assert scaling.main(options) == 0
    (row,) = json.loads(path.read_text())["rows"]
    parameters = 2 * 1 + 1 + 1 * 10 + 10
    assert row["parameters"] == row["at"] == parameters
    assert row["collectives"] == row["plain_collectives"] == [1, 4 * parameters]
    assert f"{row['ratio']:.3f}" in capsys.readouterr().out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_points_of_scaling_are_what_its_axes_say():
    points = list(scaling.points())
    assert [p["replicas"] for p in points if p["by"] == "replicas"] == [1, 2, 4, 8]
    (m,) = [p for p in points if p["by"] == "m"]
    assert [rule["m"] for rule in m["rules"].values()] == [m["rows"] // k for k in (1, 2, 4, 8)]
    assert {p["by"] for p in points} == set(scaling.BY)


def test_the_projection_by_hand():
    """1.5 s a gradient at half of 4 op/s; 8 bytes at 2 bytes a second round a slice of 4, at 1 between two slices."""
    chip = {"peak": 4.0, "ici": 2.0, "dcn": 1.0, "slice": 4}
    one = projection.project(1.5, 2, 2, 4, utilization=0.5, chip=chip)
    assert one["plain"] == {
        "compute_seconds": 1.5,
        "communication_seconds": 2 * 3 / 4 * 8 / 2,
        "step_seconds": 7.5,
        "images_per_second": 8 / 7.5,
        "weight_memory_bytes": 24,
    }
    assert (one["SAM"]["step_seconds"], one["ratio"], one["slices"]) == (9.0, 1.2, 1)
    assert one["SAM"]["weight_memory_bytes"] == 40
    two = projection.project(1.5, 2, 2, 8, 0.5, projection.Costs(3.0, 4.0, 6.0), chip=chip)
    assert two["plain"]["communication_seconds"] == 6.0 + 2 * 1 / 2 * 8 / 1
    assert two["SAM"]["step_seconds"] == 4.5 + 1.5 * 14.0
    assert two["slices"] == 2


def test_the_projection_reads_what_was_compiled_for_tpu(tmp_path):
    path = tmp_path / "tpu_aot.json"
    assert projection.ahead_of_time(path) is None
    weights = resnet().count_params()
    costs = {"keras.Model": {"flops": 10.0, "all_reduce_bytes": 2 * weights}}
    costs |= {"MSAM(rho=2)": {}, "SAM(rho=0.05)": {"flops": 21.0, "all_reduce_bytes": 4 * weights}}
    path.write_text(json.dumps({"costs": costs}))
    assert projection.ahead_of_time(path) == projection.Costs(2.1, 2.0, 4.0)


@pytest.mark.parametrize("script", [projection, gpu_hours, peers_work])
def test_what_counts_by_jax_asks_for_jax(script, capsys):
    with pytest.raises(SystemExit):
        script.main([])
    assert "KERAS_BACKEND=jax" in capsys.readouterr().err


def test_the_operations_of_a_row_by_hand():
    """10 epochs of the 45,000 images that are not held out: SAM of 3 steps of ascent takes 4 gradients, SGD for twice
    the epochs 2, a bootstrap with SAM 2 times 2; of 5 seeds."""
    methods = {
        "sam": recipes.Method(keras_sam.SAM(0.1, ascent_steps=3)),
        "sgd-2x": recipes.Method(epochs=2),
        "bootstrap": recipes.Method(keras_sam.SAM(0.1), bootstrap=True),
    }
    options = {"augmentation": "none", "learning_rate": 0.1, "weight_decay": 0.0, "methods": methods}
    row = recipes.Row(network="small-cnn", data="cifar10", epochs=10, held_out=0.1, **options)
    assert gpu_hours.operations_of(row, 5, 7.0) == 7 * 450_000 * (4 + 2 + 4) * 5
    row = recipes.Row(network="small-cnn", data="cars196", steps=100, batch_size=32, **options)
    assert gpu_hours.operations_of(row, 1, 7.0) == 7 * 3200 * (4 + 2 + 4)
    assert gpu_hours.gradients_of(keras_sam.SAM(0.0)) == 1
    assert gpu_hours.gradients_of(keras_sam.SAM(0.1, second_order=True)) == 3


def test_a_sweep_of_memory(tmp_path, monkeypatch, capsys):
    """Two sizes of 4 and 400 MB, of which SAM adds 12 and 1,200 MB, where equal runs differ by 20 MB."""

    def measure(names, widths, batch_size, steps, repeats):
        size = widths[0]
        plain = {"peak_mb": 10 * size, "spread_mb": 20}
        sam = {"peak_mb": 13 * size, "spread_mb": 5, "extra_mb": 3 * size, "ratio": 3.0, "limit": 2.2}
        config = {"weight_bytes": 10**6 * size, "batch_size": batch_size}
        return {"config": config, "rows": {PLAIN: plain, **dict.fromkeys(names, sam)}}

    monkeypatch.setattr(memory, "measure", measure)
    monkeypatch.setitem(memory.SWEEPS, "batch", [{"widths": [4], "batch_size": 8}, {"widths": [400], "batch_size": 64}])
    path = tmp_path / "sweep.json"
    assert memory.main(["--sweep", "batch", "--output", str(path), "--check"]) == 1
    rows = json.loads(path.read_text())["rows"]
    assert [row["holds"] for row in rows] == ["noise", "NO"]
    assert [row["parameters"] for row in rows] == [10**6, 10**8]
    assert "+1200" in capsys.readouterr().out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    sizes = [sum(a * b for a, b in zip(p["widths"], p["widths"][1:])) for p in memory.SWEEPS["parameters"]]
    np.testing.assert_allclose(sizes, [1e6, 3e6, 1e7, 3e7, 1e8], rtol=0.01)


@pytest.mark.usefixtures("eager_functions")
def test_options_run(tmp_path, monkeypatch, capsys):
    import options

    monkeypatch.setitem(options.NETS, "dense", (lambda: memory.dense_net([2, 3]), (2,)))
    path = tmp_path / "options.json"
    arguments = ["--nets", "dense", "--options", "run_eagerly=True", "--batch-size", "2", "--steps", "1"]
    assert options.main([*arguments, "--rounds", "1", "--output", str(path)]) == 0
    results = json.loads(path.read_text())
    wall = results["times"]["dense"]["wall"]
    row = results["rows"]["dense, run_eagerly=True"]
    assert row["speed"] == pytest.approx(wall["defaults"][0] / wall["run_eagerly=True"][0])
    assert row["images_per_second"] == pytest.approx(2 / wall["run_eagerly=True"][0])
    assert f"{row['speed']:.2f}" in capsys.readouterr().out
