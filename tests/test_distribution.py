"""MirroredStrategy: each replica an ε̂ of its own, one average of SAM gradients."""

import contextlib
import functools
import itertools

import keras
import nets
import numpy as np
import pytest
import reference
import tensorflow as tf
from keras import layers

import keras_sam


def data(rows=32):
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 3)), random.normal(size=(rows, 2))


def tanh_net(cls=keras_sam.SAMModel):
    l2 = keras.regularizers.L2(1 / 128)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer=l2)(inputs)
    return cls(inputs, layers.Dense(2, kernel_regularizer=l2)(hidden))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("replicas", "p"), [(2, 2), (2, 4), (4, 2)])
def test_each_replica_perturbs_by_its_own_gradient(mirrored, replicas, p):
    x, y = data()
    with mirrored(replicas).scope():
        model = tanh_net()
        loss = keras.losses.MeanSquaredError(dtype="float64")
        optimizer = keras.optimizers.SGD(0.125, momentum=0.75)
        model.compile(optimizer, loss, sam=keras_sam.SAM(rho=0.1, p=p))
    weights = [v.numpy() for v in model.trainable_variables]
    batches = list(zip(np.split(x, 4), np.split(y, 4)))
    shares = [(np.split(x_, replicas), np.split(y_, replicas)) for x_, y_ in batches]
    steps = [reference.train(weights, batches[:i], 0.125, 0.1, 0.75, replicas, p=p, decay=1 / 64) for i in range(5)]
    logs = [reference.sam_gradient(w, *xy, 0.1, p, 1 / 64)[:2] for w, s in zip(steps, shares) for xy in zip(*s)]

    # One ε̂ for the whole batch would be another step, by far more than the tolerance below.
    shared = reference.train(weights, batches, 0.125, 0.1, 0.75, 1, p=p, decay=1 / 64)
    assert max(np.abs(one - own).max() for one, own in zip(shared, steps[-1])) > 1e-5

    history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history

    for variable, want in zip(model.trainable_variables, steps[-1]):
        np.testing.assert_allclose(variable.numpy(), want, rtol=1e-9, atol=1e-12)
        for copy in mirrored(replicas).experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy.numpy(), variable.numpy())
    np.testing.assert_allclose(history["loss"], [np.mean([loss for loss, _ in logs])], rtol=1e-6)
    np.testing.assert_allclose(history["sharpness"], [np.mean([sharpness for _, sharpness in logs])], rtol=1e-6)


RULES = {
    "micro-batches": ({"m": 2}, 2, {"m": 2}),
    "micro-batches that m does not divide": ({"m": 3, "ascent_fraction": 0.5}, 2, {"m": 3, "ascent_fraction": 0.5}),
    "ascent_steps": ({"ascent_steps": 2}, 2, {"ascent_steps": 2}),
    "global": ({"m": "global"}, 1, {}),
    "global, ascent_steps": ({"m": "global", "ascent_steps": 2, "p": 4}, 1, {"ascent_steps": 2, "p": 4}),
}


# A conditional around a loop, and around what all replicas have to reach.
SCHEDULED = ["micro-batches that m does not divide", "global, ascent_steps"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "scheduled"), [*((name, False) for name in RULES), *((name, True) for name in SCHEDULED)]
)
def test_every_share_of_the_batch_has_the_epsilon_that_m_says(mirrored, name, scheduled):
    """Two replicas; `m="global"` is the ε̂ of a single one that has the whole batch."""
    options, replicas, expected_options = RULES[name]
    x, y = data()
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.125, 0.0]) if scheduled else 0.125
    with mirrored(2).scope():
        model = tanh_net()
        loss = keras.losses.MeanSquaredError(dtype="float64")
        model.compile(keras.optimizers.SGD(0.125), loss, sam=keras_sam.SAM(rho, **options))
    expected = [v.numpy() for v in model.trainable_variables]
    batches = list(zip(np.split(x, 4), np.split(y, 4)))
    for i, batch in enumerate(batches):
        if i < 2 or not scheduled:
            expected = reference.train(expected, [batch], 0.125, 0.125, 0.0, replicas, decay=1 / 64, **expected_options)
        else:
            _, gradient = reference.loss_and_gradient(expected, *batch, 1 / 64)
            expected = [w - 0.125 * g for w, g in zip(expected, gradient)]
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, want in zip(model.trainable_variables, expected):
        np.testing.assert_allclose(variable.numpy(), want, rtol=1e-9, atol=1e-12)


def test_m_of_half_the_batch_on_one_device_is_two_replicas(mirrored):
    """Weights and BatchNormalization's statistics, over six steps."""
    x, y = (a.astype("float32") for a in data(48))

    def trained(scope, m):
        keras.utils.set_random_seed(1)
        with scope:
            inputs = keras.Input((3,))
            hidden = layers.BatchNormalization()(layers.Dense(8, "tanh", kernel_regularizer="l2")(inputs))
            model = keras_sam.SAMModel(inputs, layers.Dense(2)(hidden))
            model.compile(
                keras.optimizers.SGD(0.125, momentum=0.75), "mse", metrics=["mae"], sam=keras_sam.SAM(0.1, m=m)
            )
        return model, model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history

    (replicated, logs), (alone, logs_alone) = trained(mirrored(2).scope(), None), trained(contextlib.nullcontext(), 8)
    for got, want in zip(alone.variables, replicated.variables, strict=True):
        # Keras keeps the statistics of each replica to itself; their mean is what one device has.
        copies = [copy.numpy() for copy in mirrored(2).experimental_local_results(want.value)]
        np.testing.assert_allclose(got.numpy(), np.mean(copies, axis=0), rtol=1e-5, atol=1e-6, err_msg=want.path)
    for name in ("loss", "mae", "sharpness"):
        np.testing.assert_allclose(logs_alone[name], logs[name], rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_replicas_that_share_one_epsilon_draw_one_direction(mirrored):
    x, y = data(8)
    rule = keras_sam.RandomPerturbation(0.125, m="global", seed=1)
    with mirrored(2).scope():
        model = tanh_net()
        model.compile(keras.optimizers.SGD(1.0), keras.losses.MeanSquaredError(dtype="float64"), sam=rule)
    weights = [v.numpy() for v in model.trainable_variables]
    epsilon = [e.numpy() for e in rule.ascend(weights, weights, rule.step(0))]
    _, gradient = reference.loss_and_gradient([w + e for w, e in zip(weights, epsilon)], x, y, 1 / 64)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, w, g in zip(model.trainable_variables, weights, gradient):
        np.testing.assert_allclose(variable.numpy(), w - g, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_each_replica_and_micro_batch_draws_a_direction_of_its_own(mirrored):
    x, y = data(8)
    rule = keras_sam.RandomPerturbation(0.125, m=2, seed=1)
    with mirrored(2).scope():
        model = tanh_net()
        model.compile(keras.optimizers.SGD(1.0), keras.losses.MeanSquaredError(dtype="float64"), sam=rule)
    weights = [v.numpy() for v in model.trainable_variables]
    gradients, drawn = [], []
    for replica in range(2):
        for number in range(2):
            step = rule.step(0)._replace(share=replica * 2**20 + number)
            drawn.append([e.numpy() for e in rule.ascend(weights, weights, step)])
            rows = slice(4 * replica + 2 * number, 4 * replica + 2 * number + 2)
            perturbed = [w + e for w, e in zip(weights, drawn[-1])]
            gradients.append(reference.loss_and_gradient(perturbed, x[rows], y[rows], 1 / 64)[1])
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for variable, w, *parts in zip(model.trainable_variables, weights, *gradients):
        np.testing.assert_allclose(variable.numpy(), w - np.mean(parts, axis=0), rtol=1e-9, atol=1e-12)
    flat = [np.concatenate([e.ravel() for e in epsilon]) / 0.125 for epsilon in drawn]
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-12)
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.7  # of 26 numbers each


def stateful_net(cls):
    inputs = keras.Input((3,))
    x = layers.Dense(8, "relu", kernel_regularizer="l2")(inputs)
    x = layers.Dropout(0.3, seed=1)(layers.BatchNormalization()(x))
    return cls(inputs, layers.Dense(2)(x))


@functools.cache
def fitted(scope, cls, **options):
    """History and variables after two epochs on a dataset, with validation."""
    dataset = tf.data.Dataset.from_tensor_slices(tuple(a.astype("float32") for a in data(24))).batch(8)
    keras.utils.set_random_seed(1)
    with scope():
        model = stateful_net(cls)
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **options)
    history = model.fit(dataset, epochs=2, validation_data=dataset, verbose=0).history
    return history, [v.numpy() for v in model.variables]


@pytest.mark.parametrize("sam", [None, keras_sam.SAM(rho=0.0)], ids=repr)
def test_without_sam_it_is_keras_to_the_bit(mirrored, sam):
    scope = mirrored(2).scope
    history, variables = fitted(scope, keras_sam.SAMModel, sam=sam)
    keras_history, keras_variables = fitted(scope, keras.Model)
    assert history == keras_history
    for got, want in zip(variables, keras_variables, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_schedule_skips_the_second_pass_on_every_replica(mirrored, replicas):
    """A conditional in replica context, BatchNormalization and Dropout in it; 24 steps, 12 of them with ε̂."""
    x, y = (a.astype("float32") for a in data(32))
    rho = keras.optimizers.schedules.PiecewiseConstantDecay([11], [0.0, 0.1])
    with mirrored(replicas).scope():
        model = stateful_net(keras_sam.SAMModel)
        model.compile(keras.optimizers.SGD(0.05), "mse", sam=keras_sam.SAM(rho))
    history = model.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0).history
    assert history["sharpness"][:3] == [0.0] * 3
    assert min(history["sharpness"][3:]) > 0
    for variable in model.trainable_variables:
        for copy in mirrored(replicas).experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy.numpy(), variable.numpy())


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def gradient_of(x, y, shapes):
    """The gradient of the tanh net's loss as a function of a flat vector."""
    cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1].astype(int)

    def gradient_at(w):
        weights = [part.reshape(shape) for part, shape in zip(np.split(w, cuts), shapes)]
        return flat(reference.loss_and_gradient(weights, x, y, 1 / 64)[1])

    return gradient_at


IS_BIAS = flat([np.full(shape, len(shape) == 1) for shape in [(3, 4), (4,), (4, 2), (2,)]])
# A rule, and what it does in step i on a replica: (∇L, w, i, state, momentum) → gradient, new state.
FAMILY = {
    "ASAM": (keras_sam.ASAM(0.5), lambda g, w, i, s, v: (reference.asam(g, w, 0.5, 0.01, IS_BIAS), s)),
    "GSAM": (keras_sam.GSAM(0.1), lambda g, w, i, s, v: (reference.gsam(g, w, 0.1, 0.4), s)),
    "FriendlySAM": (
        keras_sam.FriendlySAM(0.1),
        lambda g, w, i, s, v: reference.friendly_sam(g, w, 0.1, 1.0, 0.9, s),
    ),
    "LookSAM": (
        keras_sam.LookSAM(0.1, k=2),
        lambda g, w, i, s, v: reference.looksam(g, w, 0.1, 0.1, i % 2 == 0, s),
    ),
    "MSAM": (keras_sam.MSAM(0.5), lambda g, w, i, s, v: (reference.msam(g, w, 0.5, v), s)),
}


def trained_by_twin(twin, weights, batches, replicas):
    """SGD(0.125, momentum=0.75) of the replicas that have examples, in NumPy; `batches` are lists of their shares."""
    shapes, w = [a.shape for a in weights], flat(weights)
    state, momentum = None, np.zeros_like(w)
    for i, shares in enumerate(batches):
        results = [twin(gradient_of(x, y, shapes), w, i, state, momentum) for x, y in shares]
        assert 0 < len(results) <= replicas
        gradients, states = zip(*results)
        state = None if states[0] is None else np.mean(states, axis=0)
        momentum = 0.75 * momentum + np.mean(gradients, axis=0)
        w = w - 0.125 * momentum
    return w


def fitted_on_replicas(strategy, rule, x, y, epochs=1, **options):
    with strategy.scope():
        model = tanh_net()
        loss = keras.losses.MeanSquaredError(dtype="float64")
        model.compile(keras.optimizers.SGD(0.125, momentum=0.75), loss, sam=rule, **options)
    weights = [v.numpy() for v in model.trainable_variables]
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return weights, model


def trained_on_replicas(*arguments, **options):
    weights, model = fitted_on_replicas(*arguments, **options)
    return weights, flat([v.numpy() for v in model.trainable_variables])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "replicas"), [*((name, 2) for name in FAMILY), ("FriendlySAM", 4)])
def test_every_rule_on_replicas_is_the_mean_of_what_numpy_does_on_each(mirrored, name, replicas):
    rule, twin = FAMILY[name]
    x, y = data(40)
    weights, got = trained_on_replicas(mirrored(replicas), rule, x, y)
    batches = [
        list(zip(np.split(x_, replicas), np.split(y_, replicas))) for x_, y_ in zip(np.split(x, 5), np.split(y, 5))
    ]
    np.testing.assert_allclose(got, trained_by_twin(twin, weights, batches, replicas), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("rule", "m", "m_of_one"),
    [
        *((rule, *m) for rule in (keras_sam.FriendlySAM, keras_sam.LookSAM) for m in [(None, 4), (2, 2)]),
        (keras_sam.FriendlySAM, "global", None),
    ],
)
def test_what_a_rule_keeps_is_the_same_on_one_device(mirrored, rule, m, m_of_one):
    """So that training goes on with another number of replicas."""
    kept = []
    for strategy, number in [(mirrored(2), m), (tf.distribute.get_strategy(), m_of_one)]:
        keras.utils.set_random_seed(1)
        _, model = fitted_on_replicas(strategy, rule(0.1, m=number), *data())
        kept.append([v.numpy() for v in model.optimizer.variables if "keras_sam" in v.name])
    assert len(kept[1]) == 4
    for got, want in zip(*kept, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def sam_twin(gradient_at, w, *rest):
    return gradient_at(w + 0.1 * reference.unit(gradient_at(w))), None


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("rule", "twin", "replicas"),
    [
        (keras_sam.FriendlySAM(0.1, m=2), FAMILY["FriendlySAM"][1], 4),
        (keras_sam.SAM(0.1, m="global"), sam_twin, 2),
    ],
    ids=repr,
)
def test_replicas_without_examples_are_left_out_of_the_average(mirrored, rule, twin, replicas):
    """The last 5 of 13 examples are 2, 2, 1 and 0 on 4 replicas, the last of 9 is 1 and 0 on 2."""
    x, y = data(13 if replicas == 4 else 9)
    weights, got = trained_on_replicas(mirrored(replicas), rule, x, y, epochs=2)
    cuts = [[0, 2, 4, 6, 8], [8, 10, 12, 13]] if replicas == 4 else [[0, 8], [8, 9]]
    batches = [[(x[a:b], y[a:b]) for a, b in itertools.pairwise(c)] for c in cuts] * 2
    np.testing.assert_allclose(got, trained_by_twin(twin, weights, batches, replicas), rtol=1e-9, atol=1e-12)


def trained_on_one_row(scope, **options):
    x, y = (a.astype("float32") for a in data(1))
    keras.utils.set_random_seed(1)
    with scope:
        model = stateful_net(keras_sam.SAMModel)
        model.compile(keras.optimizers.SGD(0.125, momentum=0.75), "mse", metrics=["mae"], **options)
    return model, model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0).history


def test_a_batch_smaller_than_the_number_of_replicas_trains_as_on_one_device(mirrored):
    """To the bit, with BatchNormalization, Dropout and a regularizer; the statistics of the idle replica keep still."""
    with pytest.warns(UserWarning, match="leaves 1 of 2 replicas without examples") as record:
        replicated, logs = trained_on_one_row(mirrored(2).scope())
    assert sum("without examples" in str(warning.message) for warning in record) == 1
    alone, logs_alone = trained_on_one_row(contextlib.nullcontext(), run_eagerly=True)
    for got, want in zip(replicated.variables, alone.variables, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=want.path)
    assert {name: logs[name] for name in ("loss", "mae", "sharpness")} == {
        name: logs_alone[name] for name in ("loss", "mae", "sharpness")
    }
    for variable in replicated.layers[2].non_trainable_variables:
        busy, idle = (copy.numpy() for copy in mirrored(2).experimental_local_results(variable.value))
        np.testing.assert_array_equal(idle, np.full(8, "variance" in variable.path))
        assert np.abs(busy - idle).max() > 1e-3
    for variable in replicated.trainable_variables:
        copies = mirrored(2).experimental_local_results(variable.value)
        np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())


@pytest.mark.parametrize("m", [None, 2])
def test_metrics_of_replicas_leave_out_what_is_masked(mirrored, m):
    """Of 9 rows the last batch has 1, which leaves a replica without."""
    with mirrored(2).scope():
        model, x, y = nets.masked(keras_sam.SAM(0.1, m=m))
    logs = model.fit(x, y, batch_size=8, verbose=0).history
    assert [value for name, value in logs.items() if "accuracy" in name] == [[1.0]]


@pytest.mark.parametrize("m", [None, 2])
def test_not_all_that_a_model_returns_has_rows(mirrored, m):
    """Of 9 rows the last batch has 1, which leaves a replica without."""

    def trained(cls, y, loss):
        keras.utils.set_random_seed(0)
        with mirrored(2).scope():
            model = cls()
            model.compile(keras.optimizers.SGD(0.1), loss, sam=keras_sam.SAM(0.1, m=m))
        history = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
        return [history["loss"], history["sharpness"], *model.get_weights()]

    x, y = (a.astype("float32") for a in data(9))
    got, want = trained(nets.ReturnsMore, {"y": y}, {"y": "mse"}), trained(nets.ReturnsOne, y, "mse")
    for value, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


class Overflow(layers.Layer):
    """Infinite in the examples that are marked, in the pass at w or in the other."""

    def call(self, x):
        mark = 1.0 if keras_sam.in_ascent() else 2.0
        return x * keras.ops.where(keras.ops.equal(x[:, :1], mark), float("inf"), 1.0)


@pytest.mark.parametrize("replicas", [2, 4])
def test_an_overflow_on_any_replica_in_either_pass_skips_the_step_on_all(mirrored, replicas):
    """The last replica overflows in steps 1 (the pass at w) and 2 (the pass at w + ε̂) of 0 … 3."""
    x, y = (a.astype("float32") for a in data(32))
    x[:, 0] = 0
    x[15, 0], x[23, 0] = 1.0, 2.0
    with mirrored(replicas).scope():
        inputs = keras.Input((3,))
        hidden = layers.Dense(8, "tanh", dtype="mixed_float16")(Overflow()(inputs))
        model = keras_sam.SAMModel(inputs, layers.Dense(2, dtype="float32")(hidden))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=1024.0)
        model.compile(optimizer, "mse", sam=keras_sam.FriendlySAM(0.1))
    seen = []

    def look(batch, logs):
        kept = [v for v in [*model.trainable_variables, *optimizer.variables] if v.name != "step_counter"]
        copies = [[c.numpy() for c in mirrored(replicas).experimental_local_results(v.value)] for v in kept]
        state = [c for v, c in zip(kept, copies) if v.name != "dynamic_scale"]
        seen.append((optimizer.dynamic_scale.numpy(), optimizer.iterations.numpy(), state))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])
    scales, iterations, states = zip(*seen)
    assert scales == (1024, 512, 256, 256)
    assert iterations == (1, 1, 1, 2)
    keras.tree.map_structure(np.testing.assert_array_equal, states[0], states[1])
    keras.tree.map_structure(np.testing.assert_array_equal, states[0], states[2])
    for copies in states[3]:
        assert np.isfinite(copies[0]).all()
        np.testing.assert_array_equal(copies, [copies[0]] * replicas)
    assert sum(np.abs(after[0] - before[0]).max() > 0 for before, after in zip(states[2], states[3])) >= 12


def test_synchronized_statistics_and_one_epsilon_are_one_device(mirrored):
    """The last batch of one example leaves a replica idle, whose statistics follow the others'."""
    x, y = (a.astype("float32") for a in data(9))

    def trained(scope, synchronized, m):
        keras.utils.set_random_seed(1)
        with scope:
            inputs = keras.Input((3,))
            hidden = layers.BatchNormalization(synchronized=synchronized)(layers.Dense(8, "tanh")(inputs))
            model = keras_sam.SAMModel(inputs, layers.Dense(2)(hidden))
            model.compile(keras.optimizers.SGD(0.125, momentum=0.75), "mse", sam=keras_sam.SAM(0.1, m=m))
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model

    replicated = trained(mirrored(2).scope(), True, "global")
    for got, want in zip(replicated.variables, trained(contextlib.nullcontext(), False, None).variables, strict=True):
        for copy in mirrored(2).experimental_local_results(got.value):
            np.testing.assert_allclose(copy.numpy(), want.numpy(), rtol=1e-5, atol=1e-6, err_msg=want.path)


def test_micro_batches_cannot_wait_for_the_statistics_of_other_replicas(mirrored):
    with mirrored(2).scope():
        inputs = keras.Input((3,))
        model = keras_sam.SAMModel(inputs, layers.BatchNormalization(synchronized=True)(inputs))
        with pytest.raises(ValueError, match=r"SAM\(rho=0.05, m=2\).* under MirroredStrategy with 2 replicas"):
            model.compile("sgd", "mse", sam=keras_sam.SAM(m=2))


def steps_executed(mirrored, steps_per_execution, rows=25, **options):
    x, y = (a.astype("float32") for a in data(rows))
    keras.utils.set_random_seed(1)
    with mirrored(2).scope():
        model = stateful_net(keras_sam.SAMModel)
        optimizer = keras.optimizers.Adam(0.01)
        model.compile(optimizer, "mse", metrics=["mae"], steps_per_execution=steps_per_execution, **options)
    # An unknown number of batches: Keras goes on until there is none.
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).filter(lambda *batch: True)
    history = model.fit(batches, validation_data=(x, y), verbose=0).history
    return model, history


@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:`shuffle=True` was passed")
@pytest.mark.parametrize(("sam", "several", "rows"), [("sam", [2, 3], 25), (None, [3], 26)])
def test_steps_per_execution_changes_no_number(mirrored, sam, several, rows):
    """7 steps, which neither 2 nor 3 divide; with SAM the last leaves a replica idle."""
    want, logs = steps_executed(mirrored, 1, rows, sam=sam)
    for steps_per_execution in several:
        got, logs_of_several = steps_executed(mirrored, steps_per_execution, rows, sam=sam)
        assert logs_of_several == logs
        for a, b in zip(got.variables, want.variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_after_500_steps_the_replicas_are_equal_to_the_bit(mirrored):
    dataset = tf.data.Dataset.from_tensor_slices(tuple(a.astype("float32") for a in data(28))).batch(4).repeat()
    with mirrored(2).scope():
        model = stateful_net(keras_sam.SAMModel)
        model.compile(keras.optimizers.AdamW(0.01), "mse", sam=keras_sam.FriendlySAM(0.1), steps_per_execution=100)
    model.fit(dataset, steps_per_epoch=500, verbose=0)
    assert model.optimizer.iterations.numpy() == 500
    for variable in [*model.trainable_variables, *model.optimizer.variables]:
        copies = mirrored(2).experimental_local_results(variable.value)
        np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy(), err_msg=variable.path)


def test_a_model_made_outside_of_the_scope_is_refused(mirrored):
    outside = tanh_net()
    with mirrored(2).scope():
        with pytest.raises(ValueError, match=r"kernel.* of the model .*not made under the MirroredStrategy"):
            outside.compile("sgd", "mse")
        inside, plain = tanh_net(), tanh_net(keras.Model)
    with pytest.raises(ValueError, match=r"iteration.* of the optimizer .*not made under the MirroredStrategy"):
        inside.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"inside of `with strategy.scope\(\):`, `SAMModel.from_model` included"):
        keras_sam.SAMModel.from_model(plain).compile("sgd", "mse")
    x, y = (a.astype("float32") for a in data(8))
    outside.compile("sgd", "mse")
    with mirrored(2).scope(), pytest.raises(ValueError, match="not made under the MirroredStrategy"):
        outside.fit(x, y, verbose=0)
