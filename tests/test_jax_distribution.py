"""keras.distribution on JAX: each device an ε̂ of its own, one all-reduce of SAM gradients; weights in shards."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import jax
import keras
import numpy as np
import pytest
import reference
from conftest import required
from keras import layers
from oracle import values_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import compiled
from resnet import resnet

import keras_sam
from keras_sam.experiments import strategies

# Of weights about 1 after some steps in float32; one ε̂ for all devices would be at least a hundred times as far away.
TOLERANCE = 5e-7


def data(rows=32, dtype="float32"):
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 3)).astype(dtype), random.normal(size=(rows, 2)).astype(dtype)


def data_parallel(num_devices):
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:num_devices]).scope()


def tanh_net(sam, optimizer=None):
    l2 = keras.regularizers.L2(1 / 128)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer=l2)(inputs)
    model = keras_sam.SAMModel(inputs, layers.Dense(2, kernel_regularizer=l2)(hidden))
    model.compile(optimizer or keras.optimizers.SGD(0.125), "mse", sam=sam)
    return model


def assert_weights(model, expected):
    for variable, want in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), want, rtol=0, atol=TOLERANCE)
        for copy in variable.value.addressable_shards:
            np.testing.assert_array_equal(copy.data, variable.numpy())


def test_the_example_of_the_page_runs():
    page = pathlib.Path(__file__).parents[1] / "docs" / "distribution.md"
    example, _ = re.findall(r"```python\n(.*?)```", page.read_text().partition("## JAX")[2], re.DOTALL)
    x, y = data(512)
    scope = {"keras": keras, "keras_sam": keras_sam, "x": x, "y": y}
    scope["make_network"] = lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    try:
        exec(example, scope)
    finally:
        keras.distribution.set_distribution(None)
    assert set(scope["model"].history.history) == {"loss", "sharpness"}


@pytest.mark.parametrize(("devices", "p"), [(2, 2), (2, 4), (4, 2)])
def test_each_device_perturbs_by_its_own_gradient(devices, p):
    x, y = data(40)
    with data_parallel(devices):
        model = tanh_net(keras_sam.SAM(rho=0.1, p=p), keras.optimizers.SGD(0.125, momentum=0.75))
        weights = values_of(model.trainable_variables)
        history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    batches = list(zip(np.split(x, 5), np.split(y, 5)))
    shares = [(np.split(x_, devices), np.split(y_, devices)) for x_, y_ in batches]
    steps = [reference.train(weights, batches[:i], 0.125, 0.1, 0.75, devices, p=p, decay=1 / 64) for i in range(6)]
    logs = [reference.sam_gradient(w, *xy, 0.1, p, 1 / 64)[:2] for w, s in zip(steps, shares) for xy in zip(*s)]
    assert_weights(model, steps[-1])
    shared = reference.train(weights, batches, 0.125, 0.1, 0.75, 1, p=p, decay=1 / 64)
    assert max(np.abs(a - b).max() for a, b in zip(shared, steps[-1])) > 100 * TOLERANCE
    np.testing.assert_allclose(history["loss"], [np.mean([loss for loss, _ in logs])], rtol=1e-6)
    np.testing.assert_allclose(history["sharpness"], [np.mean([sharpness for _, sharpness in logs])], rtol=1e-6)


OPTIONS = {
    "micro-batches": ({"m": 2}, 2, {"m": 2}),
    "micro-batches that m does not divide": ({"m": 3, "ascent_fraction": 0.5}, 2, {"m": 3, "ascent_fraction": 0.5}),
    "ascent_steps": ({"ascent_steps": 2, "p": 4}, 2, {"ascent_steps": 2, "p": 4}),
    "global": ({"m": "global"}, 1, {}),
}


@pytest.mark.parametrize(
    ("name", "scheduled"), [*((name, False) for name in OPTIONS), ("micro-batches that m does not divide", True)]
)
def test_every_share_of_the_batch_has_the_epsilon_that_m_says(name, scheduled):
    """Two devices; `m="global"` is the ε̂ of a single one that has the whole batch."""
    options, devices, expected_options = OPTIONS[name]
    x, y = data()
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.125, 0.0]) if scheduled else 0.125
    with data_parallel(2):
        model = tanh_net(keras_sam.SAM(rho, **options))
        expected = values_of(model.trainable_variables)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for i, batch in enumerate(zip(np.split(x, 4), np.split(y, 4))):
        if i < 2 or not scheduled:
            expected = reference.train(expected, [batch], 0.125, 0.125, 0.0, devices, decay=1 / 64, **expected_options)
        else:
            _, gradient = reference.loss_and_gradient(expected, *batch, 1 / 64)
            expected = [w - 0.125 * g for w, g in zip(expected, gradient)]
    assert_weights(model, expected)


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def gradient_on(rows, shapes):
    """∇L of the net on some rows, as a function of flat weights."""

    def gradient_at(w):
        cuts = np.cumsum([np.prod(s) for s in shapes])[:-1]
        weights = [part.reshape(s) for part, s in zip(np.split(w, cuts), shapes)]
        return flat(reference.loss_and_gradient(weights, *rows, 1 / 64)[1])

    return gradient_at


IS_BIAS = flat([np.zeros((3, 4)), np.ones(4), np.zeros((4, 2)), np.ones(2)]) > 0
# What a device applies and keeps, given its gradient, the weights, what is kept and the iteration.
RULES = [
    (keras_sam.ASAM(0.5), lambda g, w, kept, i: (reference.asam(g, w, 0.5, 0.01, IS_BIAS), kept)),
    (keras_sam.GSAM(0.1, alpha=0.4), lambda g, w, kept, i: (reference.gsam(g, w, 0.1, 0.4), kept)),
    (
        keras_sam.FriendlySAM(0.1, sigma=0.5, decay=0.75),
        lambda g, w, kept, i: reference.friendly_sam(g, w, 0.1, 0.5, 0.75, kept),
    ),
    (keras_sam.LookSAM(0.1, k=2, alpha=0.3), lambda g, w, kept, i: reference.looksam(g, w, 0.1, 0.3, i % 2 == 0, kept)),
]


@pytest.mark.parametrize(("rule", "on_device"), RULES, ids=lambda value: repr(value) if hasattr(value, "rho") else "")
def test_every_rule_runs_on_each_device_and_its_state_is_averaged(rule, on_device):
    x, y = data(40)
    with data_parallel(2):
        model = tanh_net(rule)
        weights = values_of(model.trainable_variables)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    shapes, w, kept = [a.shape for a in weights], flat(weights).astype("float64"), None
    for i, batch in enumerate(zip(np.split(x, 5), np.split(y, 5))):
        gradients = [gradient_on(rows, shapes) for rows in zip(*(np.split(a, 2) for a in batch))]
        applied, states = zip(*[on_device(g, w, kept, i) for g in gradients])
        w = w - 0.125 * np.mean(applied, axis=0)
        kept = None if states[0] is None else np.mean(states, axis=0)
    np.testing.assert_allclose(flat(values_of(model.trainable_variables)), w, rtol=0, atol=2 * TOLERANCE)
    if kept is not None:
        state = flat([v.numpy() for v in model.optimizer.variables if "keras_sam" in v.name])
        np.testing.assert_allclose(state, kept, rtol=0, atol=2 * TOLERANCE)


def test_msam_perturbs_by_the_momentum_that_all_devices_share():
    x, y = data(40)
    with data_parallel(2):
        model = tanh_net(keras_sam.MSAM(0.5), keras.optimizers.SGD(0.125, momentum=0.75))
        weights = values_of(model.trainable_variables)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    shapes, w = [a.shape for a in weights], flat(weights).astype("float64")
    v = np.zeros_like(w)
    for batch in zip(np.split(x, 5), np.split(y, 5)):
        v = 0.75 * v + reference.msam(gradient_on(batch, shapes), w, 0.5, v)
        w = w - 0.125 * v
    np.testing.assert_allclose(flat(values_of(model.trainable_variables)), w, rtol=0, atol=2 * TOLERANCE)


def test_each_device_and_micro_batch_draws_a_direction_of_its_own():
    x, y = data(8)
    rule = keras_sam.RandomPerturbation(0.125, m=2, seed=1)
    with data_parallel(2):
        model = tanh_net(rule, keras.optimizers.SGD(1.0))
        weights = values_of(model.trainable_variables)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    gradients, drawn = [], []
    for device in range(2):
        for number in range(2):
            step = rule.step(0)._replace(share=device * 2**20 + number)
            drawn.append(values_of(rule.ascend(weights, weights, step)))
            rows = slice(4 * device + 2 * number, 4 * device + 2 * number + 2)
            perturbed = [w + e for w, e in zip(weights, drawn[-1])]
            gradients.append(reference.loss_and_gradient(perturbed, x[rows], y[rows], 1 / 64)[1])
    assert_weights(model, [w - np.mean(parts, axis=0) for w, *parts in zip(weights, *gradients)])
    directions = np.stack([flat(epsilon) / 0.125 for epsilon in drawn])
    assert np.abs(np.corrcoef(directions) - np.eye(4)).max() < 0.7  # of 26 numbers each


def stateful_net(cls=keras_sam.SAMModel, dropout=0.3, dtype=None, layer=None, **options):
    """Two inputs in a dict, BatchNormalization, Dropout."""
    keras.utils.set_random_seed(1)
    inputs = {name: keras.Input((3,), name=name) for name in "ab"}
    x = layers.Concatenate()([inputs["a"], inputs["b"]])
    x = layers.Dense(8, "relu", kernel_regularizer="l2", dtype=dtype)(x)
    x = layers.Dropout(dropout, seed=1)(layers.BatchNormalization()(x if layer is None else layer(x)))
    model = cls(inputs, layers.Dense(2, dtype="float32")(x))
    options = {"optimizer": keras.optimizers.SGD(0.05, momentum=0.5), **options}
    model.compile(loss="mse", metrics=["mae"], weighted_metrics=["mse"], **options)
    return model


class Counted(layers.Layer):
    """Has a metric that `call` updates."""

    def __init__(self):
        super().__init__()
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x):
        self.seen.update_state(x)
        return x


def fitted(model, rows=48, batch_size=8, epochs=2):
    x, y = data(rows)
    weights = np.linspace(0.5, 1.5, rows, dtype="float32")
    x = {"a": x, "b": x**2}
    history = model.fit(x, y, batch_size, epochs, sample_weight=weights, shuffle=False, verbose=0).history
    return history, values_of(model.variables + model.optimizer.variables + model.metrics_variables)


@pytest.mark.parametrize("rule", [None, keras_sam.SAM(rho=0.0)], ids=repr)
def test_without_sam_it_is_keras_to_the_bit(rule):
    with data_parallel(2):
        history, values = fitted(stateful_net(sam=rule))
        expected_history, expected_values = fitted(stateful_net(keras.Model))
    assert history == expected_history
    for got, want in zip(values, expected_values, strict=True):
        np.testing.assert_array_equal(got, want)


def test_two_devices_are_micro_batches_of_half_the_batch_on_one():
    """Weights, statistics of BatchNormalization, the rule's state, counters and metrics, over 12 steps."""
    rule = {"sigma": 0.5, "decay": 0.75}
    with data_parallel(2):
        history, values = fitted(stateful_net(dropout=0.0, layer=Counted(), sam=keras_sam.FriendlySAM(0.1, **rule)))
    expected_history, expected_values = fitted(
        stateful_net(dropout=0.0, layer=Counted(), sam=keras_sam.FriendlySAM(0.1, m=4, **rule))
    )
    for name, want in expected_history.items():
        np.testing.assert_allclose(history[name], want, rtol=1e-5, err_msg=name)
    for got, want in zip(values, expected_values, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)


def test_every_device_drops_other_entries_and_the_seed_goes_on_as_in_keras():
    masks = []

    class Recorder(layers.Layer):
        def call(self, x):
            jax.debug.callback(lambda mask: masks.append(np.array(mask)), x != 0)
            return x

    def model_of(cls):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((256,))
        x = Recorder()(layers.Dropout(0.5, seed=1)(inputs))
        model = cls(inputs, layers.Dense(1)(x))
        model.compile("sgd", "mse")
        return model

    with data_parallel(2):
        model, expected = model_of(keras_sam.SAMModel), model_of(keras.Model)
        for m in (model, expected):
            m.fit(np.ones((2, 256)), np.ones((2, 1)), batch_size=2, verbose=0)
            jax.effects_barrier()
    # Two passes on each of two devices.
    found, times = np.unique(np.stack(masks[:4]), axis=0, return_counts=True)
    assert times.tolist() == [2, 2]
    assert np.mean(found[0] != found[1]) > 0.4  # two independent masks differ in half of their entries
    for got, want in zip(model.non_trainable_variables, expected.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_float8_goes_by_the_largest_value_on_any_device():
    x = np.ones((16, 4), "float32")
    x[5] = 100.0
    found = []
    for cls, options in [(keras.Model, {}), (keras_sam.SAMModel, {"sam": keras_sam.SAM(0.1)})]:
        keras.utils.set_random_seed(0)
        with data_parallel(2):
            inputs = keras.Input((4,))
            dense = keras.layers.Dense(1, dtype="float8_from_mixed_bfloat16")
            model = cls(inputs, dense(inputs))
            model.compile(keras.optimizers.SGD(0.0), "mse", **options)
            model.fit(x, np.zeros((16, 1)), batch_size=16, epochs=2, shuffle=False, verbose=0)
        found.append((values_of([dense.inputs_amax_history])[0].max(), values_of([dense.inputs_scale])[0]))
    np.testing.assert_array_equal(found[0][0], 100)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_an_overflow_on_one_device_skips_the_step_of_all_and_halves_the_scale():
    def after_one_step(x):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1024.0)
        model = stateful_net(dtype="mixed_float16", optimizer=optimizer, sam=keras_sam.FriendlySAM(0.1))
        before = values_of(model.trainable_variables)
        model.fit({"a": x, "b": x}, data(8)[1], batch_size=8, verbose=0)
        state = [v.numpy() for v in optimizer.variables if "keras_sam" in v.name]
        return optimizer, flat(values_of(model.trainable_variables)) - flat(before), flat(state)

    x = data(8)[0]
    with data_parallel(2):
        optimizer, moved, state = after_one_step(x)
        assert (float(optimizer.dynamic_scale), int(optimizer.iterations)) == (1024.0, 1)
        assert moved.any()
        assert state.any()
        x[6] = 1e5
        optimizer, moved, state = after_one_step(x)
    assert (float(optimizer.dynamic_scale), int(optimizer.iterations)) == (512.0, 0)
    assert not moved.any()
    assert not state.any()


def model_parallel(shape):
    devices = keras.distribution.list_devices()[: np.prod(shape)]
    mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch").scope()


@pytest.mark.parametrize("rule", [keras_sam.SAM(0.1, m="global"), keras_sam.FriendlySAM(0.1, m="global")], ids=repr)
def test_weights_in_shards_have_the_norm_of_all_of_them(rule):
    x, y = data(40)
    with model_parallel((2, 2)):
        model = tanh_net(rule)
        weights = values_of(model.trainable_variables)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    kernel = model.trainable_variables[0]
    # The optimizer's momentum, and what the rule keeps, as well.
    for variable in [kernel, *(v for v in model.optimizer.variables if v.shape == kernel.shape)]:
        assert {shard.data.shape for shard in variable.value.addressable_shards} == {(3, 2)}, variable.path
    expected = tanh_net(rule)
    expected.set_weights(weights)
    expected.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    if type(rule) is keras_sam.SAM:
        batches = list(zip(np.split(x, 5), np.split(y, 5)))
        want = reference.train(weights, batches, 0.125, 0.1, decay=1 / 64)
        np.testing.assert_allclose(flat(values_of(model.trainable_variables)), flat(want), rtol=0, atol=TOLERANCE)
    for got, want in zip(values_of(model.optimizer.variables), values_of(expected.optimizer.variables), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def cost_of(net, cls=keras_sam.SAMModel, **options):
    """What XLA says of a step on two devices, and the bytes of the parameters."""
    model = net if cls is keras.Model else cls.from_model(net)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options)
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    batch = [jax.ShapeDtypeStruct((8, *a.shape[1:]), "float32", sharding=rows) for a in (net.input, net.output)]
    return compiled.cost(compiled.lowered(model, *batch).compile()), 4 * net.count_params()


def test_the_compiled_step_communicates_as_a_plain_one_and_computes_twice_as_much():
    with data_parallel(2):
        plain, size = cost_of(resnet(8, width=8, image_size=16), keras.Model)
        sam, _ = cost_of(resnet(8, width=8, image_size=16), sam=keras_sam.SAM(0.05))
    assert sam["all_reduces"] == 1 <= plain["all_reduces"]
    assert 0.9 * size < sam["all_reduce_bytes"] <= 1.1 * size
    assert sam["other_collectives"] == plain["other_collectives"] == 0
    assert 1.9 < sam["flops"] / plain["flops"] <= 2.05


@pytest.mark.slow
def test_a_step_does_no_more_work_than_the_same_step_of_a_peer(monkeypatch):
    """A network of toy size, whose metrics are a part of its bytes that can be seen."""
    required("optax")
    import peers_work

    monkeypatch.setattr(peers_work, "TOLERANCE", 1.02)
    assert peers_work.main(["--nets", "tiny", "--check"]) == 0


def test_what_a_rule_keeps_is_averaged_in_the_all_reduce_of_the_gradient():
    with data_parallel(2):
        inputs = keras.Input((64,))
        net = keras.Model(inputs, layers.Dense(64)(inputs))
        keeps_nothing, size = cost_of(net, sam=keras_sam.SAM(0.05))
        keeps_an_average, _ = cost_of(net, sam=keras_sam.FriendlySAM(0.05))
    # Beside them the loss and the sharpness.
    assert [keeps_nothing[k] for k in ("all_reduces", "all_reduce_bytes")] == [1, size + 8]
    assert [keeps_an_average[k] for k in ("all_reduces", "all_reduce_bytes")] == [1, 2 * size + 8]


def test_collectives_are_read_off_the_text_of_a_program():
    text = """
  %all-reduce.1 = (f32[], bf16[3,4]{1,0:T(8,128)}, /*index=2*/f32[8]{0}) all-reduce(%a, %b, %c), channel_id=1
  %get-tuple-element = f32[] get-tuple-element(%all-reduce.1), index=0
  %all-reduce-start = f32[2,5]{1,0} all-reduce-start(%d), channel_id=2
  %all-reduce-done = f32[2,5]{1,0} all-reduce-done(%all-reduce-start)
  ROOT %all-gather = pred[16]{0} all-gather(%e), dimensions={0}
"""
    assert compiled.collectives(text) == [("all-reduce", 4 + 24 + 32), ("all-reduce", 40), ("all-gather", 16)]


TPU = [sys.executable, str(pathlib.Path(compiled.__file__).with_name("tpu_aot.py"))]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the compiler for TPUs is installed")
def test_without_the_compiler_for_tpus_the_benchmark_says_at_once_what_to_install():
    result = subprocess.run(TPU, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("XLA's compiler for TPUs is not installed: `pip install keras-sam[tpu]`")


@pytest.mark.slow
def test_the_step_compiled_for_tpus_holds_its_limits(tmp_path):
    """Two minutes."""
    required("libtpu")
    command = [*TPU, "--model", "resnet8", "--check", "--output", tmp_path / "results.json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert 1.95 < rows["flops"]["ratio"] <= 2.05


def test_a_rule_or_a_model_that_the_devices_cannot_train_is_refused_before_the_first_step():
    with (
        model_parallel((2, 2)),
        pytest.raises(ValueError, match=r"rho=0.1\)` under ModelParallel.*`m='global'`.*DataP"),
    ):
        tanh_net(keras_sam.SAM(0.1))
    model, before = tanh_net("sam"), keras.metrics.MeanAbsoluteError()
    with data_parallel(2):
        with pytest.raises(
            ValueError, match=r"`dense.*/kernel` of `.*` was made before DataParallel.*set_distribution"
        ):
            model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"was made before DataParallel"):
            model.fit(*data(8), verbose=0)
        model = tanh_net("sam")
        model.compile("adamw", "mse", metrics=[before])
        with pytest.raises(ValueError, match=r"`mean_absolute_error/.*` of `.*` was made before DataParallel"):
            model.fit(*data(8), verbose=0)
        model, total = tanh_net("sam"), keras.losses.MeanSquaredError(reduction="sum")
        with pytest.raises(ValueError, match=r"averages over devices, but MeanSquaredError adds up.*`m='global'`"):
            model.compile("sgd", total)
        model.compile("sgd", total, sam=keras_sam.SAM(m="global"))


def test_batches_that_the_devices_cannot_share_evenly_are_refused():
    """Plain Keras fails as well, but when it comes to such a batch, and without saying what to do."""
    x, y = data(13)
    with data_parallel(4):
        model = tanh_net("sam")
        for options, rows in [({"batch_size": 6}, 6), ({"batch_size": 4}, 1), ({"validation_split": 0.5}, 6)]:
            with pytest.raises(ValueError, match=rf"multiple of 4, .*drop_remainder.* makes a batch of {rows}\."):
                model.fit(x, y, verbose=0, **options)
        for size, options, rows in [
            (13, {}, 13),
            (12, {"validation_batch_size": 5}, 5),
            (9, {"validation_batch_size": 8, "validation_steps": 2}, 1),
        ]:
            with pytest.raises(ValueError, match=rf"multiple of 4, .* {size} examples for validation .* of {rows}\."):
                model.fit(x[:4], y[:4], verbose=0, validation_data=(x[:size], y[:size]), **options)
        with pytest.raises(ValueError, match=r"multiple of 4, .* 5 examples for validation .* of 1\."):
            model.fit(x, y, batch_size=4, verbose=0, validation_split=0.37)
        model.fit(x[:4], y[:4], verbose=0, validation_data=(x, y), validation_batch_size=4, validation_steps=3)
        model.fit(x[:4], y[:4], verbose=0, validation_data=(x, y), validation_freq=2)
        assert int(model.optimizer.iterations) == 2
        batches = ((x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8, 12))
        with pytest.raises(ValueError, match=r"(?s)multiple of 4, .*drop_remainder.*the dimension size is 1"):
            model.fit(batches, verbose=0)
        assert int(model.optimizer.iterations) == 5
        model.fit(x, y, batch_size=4, steps_per_epoch=3, verbose=0)
        assert int(model.optimizer.iterations) == 8


def test_several_steps_in_an_execution_are_the_same_steps():
    x, y = data(24)

    def trained(**options):
        keras.utils.set_random_seed(1)
        model = tanh_net("sam")
        model.compile("sgd", "mse", **options)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        return flat(values_of(model.trainable_variables))

    with data_parallel(2):
        np.testing.assert_allclose(trained(steps_per_execution=2), trained(), rtol=0, atol=TOLERANCE)


def test_predictions_that_are_no_rows_are_averaged_over_devices():
    class Net(keras_sam.SAMModel):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)
            self.largest = keras.metrics.Mean(name="largest")

        def call(self, x):
            y = self.dense(x)
            numbers = {
                "seven": keras.ops.cast(keras.ops.sum(keras.ops.ones(7)), "int32"),
                "yes": keras.ops.max(y) > -100,
            }
            return {"y": y, "largest": keras.ops.max(y), **numbers}

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.square(y - y_pred["y"]))

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            assert y_pred["y"].shape == y.shape
            assert (y_pred["seven"].dtype, y_pred["yes"].dtype) == ("int32", "bool")
            self.largest.update_state(y_pred["largest"])
            return self.get_metrics_result()

    x, y = data(8)
    with data_parallel(2):
        model = Net()
        model(x)
        model.compile("sgd", "mse")
        predictions = values_of([model.dense(x)])[0]
        history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    want = np.mean([half.max() for half in np.split(predictions, 2)])
    np.testing.assert_allclose(history["largest"], [want], rtol=1e-6)


def test_the_command_line_spreads_a_run_over_all_devices():
    with strategies.scope("data-parallel"):
        distribution = keras.distribution.distribution()
        assert distribution.num_model_replicas == len(jax.devices())
        tanh_net("sam").fit(*data(8), verbose=0)
        with pytest.raises(ValueError, match=r"797 images in batches of 128, of which the last has 29: 4 devices"):
            strategies.check_shares(797, 128)
        strategies.check_shares(800, 128)
        strategies.check_shares(768, 128)
    strategies.check_shares(797, 128)
    assert keras.distribution.distribution() is None
