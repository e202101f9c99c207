"""Hessian, m-sharpness and landscape of the net of reference.py, against NumPy in float64."""

import keras
import numpy as np
import pytest
import reference
from conftest import BACKEND
from keras import layers, ops
from nets import DECAY, data, tanh_net, weights_of
from oracle import to_numpy

import keras_sam
from keras_sam import sharpness
from keras_sam.sharpness.density import lanczos
from keras_sam.sharpness.objective import Objective

X, Y = data(rows=23)
# Keras multiplies float64 matrices in float32 on the other backends.
RTOL = 1e-9 if BACKEND == "tensorflow" else 3e-6
SILENT = {"verbose": 0}


@pytest.fixture
def net(float64):
    model = tanh_net(keras.Model)
    model.compile(loss="mse")
    return model


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def hessian(weights, x, y):
    """By central differences of the gradient by hand."""
    shapes, h, columns = [w.shape for w in weights], 1e-5, []
    point = flat(weights)

    def gradient(point):
        parts = np.split(point, np.cumsum([np.prod(s) for s in shapes])[:-1])
        return flat(reference.loss_and_gradient([p.reshape(s) for p, s in zip(parts, shapes)], x, y, DECAY)[1])

    for unit in np.eye(len(point)):
        columns.append((gradient(point + h * unit) - gradient(point - h * unit)) / (2 * h))
    return np.stack(columns, -1)


class Quadratic(layers.Layer):
    """½ wᵀ diag(1, 2, 3) w, whatever the input."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(3,), initializer="ones")

    def call(self, x):
        self.add_loss(0.5 * ops.sum(ops.array([1.0, 2.0, 3.0]) * self.w**2))
        return x


def quadratic():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Quadratic()(inputs))
    model.compile(loss=None)
    return model, (np.zeros((4, 1)),)


def test_the_hessian_of_a_quadratic_is_exact():
    model, nothing = quadratic()
    product = Objective(model, nothing).hessian_vector_product(np.array([1.0, -2.0, 4.0]))
    np.testing.assert_array_equal(product, [1.0, -4.0, 12.0])
    np.testing.assert_allclose(sharpness.hessian_eigenvalues(model, nothing, 3, **SILENT), [3, 2, 1], rtol=1e-12)
    np.testing.assert_allclose(sharpness.hessian_eigenvalues(model, nothing, 1, "SA", **SILENT), [1], rtol=1e-12)
    # Every v of ±1 has vᵀ H v = 6.
    assert sharpness.hessian_trace(model, nothing, **SILENT) == (6.0, 0.0)


@pytest.mark.parametrize("batch_size", [23, 5])
def test_products_are_the_dense_hessians(net, batch_size):
    """Whatever the batches, the last of which is smaller."""
    expected = hessian(weights_of(net), X, Y)
    v = np.random.default_rng(1).normal(size=len(expected))
    objective = Objective(net, (X, Y), batch_size)
    np.testing.assert_allclose(objective.hessian_vector_product(v), expected @ v, rtol=100 * RTOL, atol=RTOL)
    for ours, theirs in zip(objective.value_and_grad(objective.weights)[1], reference_gradient(net), strict=True):
        np.testing.assert_allclose(to_numpy(ours), theirs, rtol=RTOL)


def reference_gradient(net):
    return reference.loss_and_gradient(weights_of(net), X, Y, DECAY)[1]


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_eigenvalues_are_the_dense_hessians(net, which):
    """26 weights, so that 3 eigenvalues are ARPACK's; the smallest are below 0."""
    every = np.linalg.eigvalsh(hessian(weights_of(net), X, Y))
    assert every[0] < -0.01
    order = {"LA": every[::-1], "SA": every, "LM": every[np.argsort(-abs(every))]}[which]
    found = sharpness.hessian_eigenvalues(net, (X, Y), 3, which, tolerance=1e-10, **SILENT)
    np.testing.assert_allclose(found, np.sort(order[:3])[::-1], rtol=max(RTOL, 1e-7))


def test_lanczos_at_full_order_finds_the_whole_spectrum(net):
    every = np.linalg.eigvalsh(hessian(weights_of(net), X, Y))
    density = sharpness.hessian_density(net, (X, Y), order=26, **SILENT)
    np.testing.assert_allclose(density.nodes, every, atol=1e-5)
    assert density.weights.sum() == pytest.approx(1, abs=1e-12)


def test_lanczos_stops_where_there_is_no_more_to_find():
    """An operator with three eigenvalues, of which v sees two."""
    diagonal = np.array([1.0, 1.0, 4.0, 9.0])
    nodes, weights = lanczos(lambda v: diagonal * v, np.array([3.0, 0.0, 4.0, 0.0]), order=4)
    np.testing.assert_allclose(nodes, [1, 4], rtol=1e-12)
    np.testing.assert_allclose(weights, [0.36, 0.64], rtol=1e-12)


def test_the_density_is_one(net):
    """Its mean is Hutchinson's trace with the same probes, over the number of weights."""
    density = sharpness.hessian_density(net, (X, Y), num_probes=3, order=10, **SILENT)
    trace = sharpness.hessian_trace(net, (X, Y), num_probes=3, **SILENT)
    step = density.grid[1] - density.grid[0]
    assert density.density.sum() * step == pytest.approx(1, abs=1e-6)
    assert (density.grid * density.density).sum() * step == pytest.approx(trace.value / 26, rel=1e-5)
    assert density.weights @ density.nodes == pytest.approx(trace.value / 26, rel=RTOL)
    assert len(density.nodes) == 30


def test_the_trace_is_within_its_standard_error(net):
    expected = np.trace(hessian(weights_of(net), X, Y))
    value, error = sharpness.hessian_trace(net, (X, Y), num_probes=50, **SILENT)
    assert abs(value - expected) < 3 * error
    assert error < 0.2 * expected


def loss(weights, rows=slice(None)):
    return reference.loss_and_gradient(weights, X[rows], Y[rows], DECAY)[0]


def twin(weights, rho, m, p=2.0, steps=1):
    """m-sharpness by the ascent of reference.py."""
    total = 0.0
    for start in range(0, len(X), m):
        rows = slice(start, start + m)
        epsilon = reference.ascent(
            lambda w, rows=rows: reference.loss_and_gradient(w, X[rows], Y[rows], DECAY)[1], weights, rho, p, steps
        )
        there = loss([w + e for w, e in zip(weights, epsilon)], rows)
        total += len(X[rows]) * (there - loss(weights, rows))
    return total / len(X)


@pytest.mark.parametrize(
    ("m", "options"),
    [(None, {}), (5, {}), (1, {"p": np.inf}), (10, {"ascent_steps": 3}), (7, {"p": 1.5, "ascent_steps": 2})],
)
def test_m_sharpness(net, m, options):
    """In batches of 4, so that a group of m may be several, or a part of one."""
    found = sharpness.sharpness(net, (X, Y), [0.1, 0.4], m, batch_size=4, **options, **SILENT)
    steps, p = options.get("ascent_steps", 1), options.get("p", 2.0)
    expected = [twin(weights_of(net), rho, m or len(X), p, steps) for rho in (0.1, 0.4)]
    np.testing.assert_allclose(found.loss, expected, rtol=RTOL)
    # A regression has no error rate.
    assert np.all(np.isnan(found.error))


def test_adaptive_sharpness(net):
    """ε of ASAM: ρ T² g / ‖T g‖ with T = |w| + 0.01, and 1 for biases."""
    weights = weights_of(net)
    gradient = reference_gradient(net)
    scale = [abs(w) + 0.01 if w.ndim > 1 else np.ones_like(w) for w in weights]
    length = np.sqrt(sum(np.sum((t * g) ** 2) for t, g in zip(scale, gradient)))
    there = [w + 0.5 * t**2 * g / length for w, t, g in zip(weights, scale, gradient)]
    found = sharpness.sharpness(net, (X, Y), 0.5, adaptive=True, **SILENT)
    assert found.loss == pytest.approx(loss(there) - loss(weights), rel=RTOL)


def test_average_sharpness_is_half_the_trace_for_little_noise(net):
    sigma = 1e-3
    rise = sharpness.average_sharpness(net, (X, Y), sigma, num_samples=200, **SILENT).loss
    # Without the slope, which is 0 on average and much larger than what is left.
    random, weights = np.random.default_rng(0), weights_of(net)
    noise = [[sigma * random.normal(size=w.shape) for w in weights] for _ in range(200)]
    rises = [loss([w + e for w, e in zip(weights, epsilon)]) - loss(weights) for epsilon in noise]
    assert rise.value == pytest.approx(np.mean(rises), rel=1000 * RTOL)
    assert rise.standard_error == pytest.approx(np.std(rises, ddof=1) / np.sqrt(200), rel=1000 * RTOL)
    slopes = [flat(epsilon) @ flat(reference_gradient(net)) for epsilon in noise]
    curvature = np.mean(rises) - np.mean(slopes)
    assert curvature == pytest.approx(sigma**2 / 2 * np.trace(hessian(weights, X, Y)), rel=0.1)


def test_directions_are_as_long_as_the_filters(net):
    direction = sharpness.filter_normalized_direction(net, seed=3)
    for d, w in zip(direction, weights_of(net)):
        expected = np.linalg.norm(w, axis=0) if w.ndim > 1 else np.zeros(w.shape)
        np.testing.assert_allclose(np.linalg.norm(d, axis=0) if d.ndim > 1 else d, expected, rtol=1e-12)
    again = sharpness.filter_normalized_direction(net, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(direction, again))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_surface_is_the_loss_at_each_point(net, dimensions):
    surface = sharpness.loss_surface(
        net, (X, Y), dimensions=dimensions, num_points=3, span=(-1, 0.5), batch_size=7, seed=2, **SILENT
    )
    first, second = (sharpness.filter_normalized_direction(net, [2, i]) for i in range(2))
    weights = weights_of(net)
    for i, a in enumerate(surface.alpha):
        for j, b in enumerate([0.0] if surface.beta is None else surface.beta):
            expected = loss([w + a * d + b * e for w, d, e in zip(weights, first, second)])
            found = surface.loss[i] if surface.beta is None else surface.loss[i, j]
            assert found == pytest.approx(expected, rel=RTOL)
    np.testing.assert_allclose(surface.alpha, [-1, -0.25, 0.5])


def normalized_net():
    inputs = keras.Input((3,))
    hidden = layers.BatchNormalization()(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(hidden)))
    model.compile(loss="mse")
    return model


def test_the_way_from_one_model_to_another_takes_the_statistics_along():
    here, there = normalized_net(), normalized_net()
    there.layers[2].moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    x, y = X.astype("float32"), Y.astype("float32")
    surface = sharpness.loss_surface(here, (x, y), there, num_points=3, span=(0, 1), **SILENT)
    assert surface.loss[0, 0] == pytest.approx(here.evaluate(x, y, verbose=0), rel=1e-5)
    assert surface.loss[2, 0] == pytest.approx(there.evaluate(x, y, verbose=0), rel=1e-5)
    half = normalized_net()
    half.set_weights([(a + b) / 2 for a, b in zip(here.get_weights(), there.get_weights())])
    assert surface.loss[1, 0] == pytest.approx(half.evaluate(x, y, verbose=0), rel=1e-5)


def classifier(outputs, name):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(outputs)(inputs))
    model.compile(loss=name(from_logits=True))
    return model


@pytest.mark.parametrize("kind", ["sparse", "one-hot", "binary"])
def test_the_error_rate(kind):
    losses = keras.losses
    name = {"sparse": losses.SparseCategoricalCrossentropy, "one-hot": losses.CategoricalCrossentropy}
    model = classifier(1 if kind == "binary" else 4, name.get(kind, losses.BinaryCrossentropy))
    x, labels = X.astype("float32"), np.random.default_rng(0).integers(0, 2 if kind == "binary" else 4, len(X))
    kernel, bias = weights_of(model)
    logits = x @ kernel + bias
    predicted = logits[:, 0] > 0 if kind == "binary" else logits.argmax(-1)
    y = np.eye(4)[labels] if kind == "one-hot" else labels[:, None]
    found = Objective(model, (x, y), batch_size=6).here()
    assert found[1] == pytest.approx(np.mean(predicted != labels), abs=1e-7)
    assert found[0] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)


@pytest.mark.parametrize("kind", ["one-hot", "focal", "sparse", "sparse, with an axis"])
def test_the_error_rate_along_the_axis_of_the_loss(kind):
    """Classes before positions, as in images with channels first; of 3 classes at 5 positions."""
    if BACKEND != "torch" and "sparse" in kind:
        pytest.skip("Keras takes no other axis than the last one there.")
    loss = {"one-hot": "CategoricalCrossentropy", "focal": "CategoricalFocalCrossentropy"}
    loss = getattr(keras.losses, loss.get(kind, "SparseCategoricalCrossentropy"))(axis=1, from_logits=True)
    inputs = keras.Input((3, 5))
    model = keras.Model(inputs, layers.Dense(5)(inputs))
    model.compile(loss=loss)
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(7, 3, 5)).astype("float32"), random.integers(0, 3, (7, 5))
    y = labels[:, None] if kind.endswith("axis") else labels if "sparse" in kind else np.eye(3)[labels].swapaxes(1, 2)
    kernel, bias = weights_of(model)
    found = Objective(model, (x, y), batch_size=4).here()
    assert found[1] == pytest.approx(np.mean((x @ kernel + bias).argmax(1) != labels), abs=1e-7)
    assert found[0] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)


def test_the_error_rate_of_a_loss_that_takes_indices_by_another_name():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(4, "softmax")(inputs))
    model.compile(loss=keras.losses.CategoricalGeneralizedCrossEntropy())
    x, labels = X.astype("float32"), np.random.default_rng(0).integers(0, 4, len(X))
    kernel, bias = weights_of(model)
    expected = pytest.approx(np.mean((x @ kernel + bias).argmax(-1) != labels), abs=1e-7)
    assert Objective(model, (x, labels), batch_size=6).here()[1] == expected


def test_whatever_evaluate_takes():
    """Dictionaries, sample weights, and objects that make batches; each as `evaluate` has it."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            part = slice(9 * i, 9 * i + 9)
            return {"a": x[part]}, y[part], weight[part]

    a = keras.Input((3,), name="a")
    model = keras.Model({"a": a}, layers.Dense(2, activity_regularizer="l2")(a))
    model.compile(loss="mse")
    x, y, weight = X.astype("float32"), Y.astype("float32"), np.linspace(0, 2, len(X)).astype("float32")
    expected = model.evaluate({"a": x}, y, sample_weight=weight, batch_size=9, verbose=0)
    assert model.evaluate(Batches(), verbose=0) == pytest.approx(expected, rel=1e-6)
    sources = [({"a": x}, y, weight), Batches()]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        sources.append(tf.data.Dataset.from_tensor_slices(({"a": x}, y, weight)).batch(9))
    if BACKEND == "torch":
        import torch

        rows = [({"a": x[i]}, y[i], weight[i]) for i in range(len(x))]
        sources.append(torch.utils.data.DataLoader(rows, batch_size=9))
    for given in sources:
        assert Objective(model, given, batch_size=9).here()[0] == pytest.approx(expected, rel=1e-6)


class Padded(keras.utils.PyDataset):
    """Eight series, in batches of four that are as long as their longest one."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return np.repeat(SERIES[4 * i : 4 * i + 4], 3 + i, axis=1), np.zeros((4, 1))


SERIES = np.arange(1.0, 9.0).reshape(8, 1, 1)


@pytest.mark.parametrize("m", [3, 4, 8])
def test_groups_of_series_of_other_lengths(m):
    """The mean of a series does not depend on its length."""
    inputs = keras.Input((None, 1))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.Dense(1)(inputs)))
    model.compile(loss="mse")
    found = sharpness.sharpness(model, Padded(), 0.1, m, **SILENT)
    expected = sharpness.sharpness(model, (np.repeat(SERIES, 3, axis=1), np.zeros((8, 1))), 0.1, m, **SILENT)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_sums_over_many_batches_have_more_digits_than_the_weights(policy):
    """600 times the same: a sum in bfloat16 stands still where its parts are below a 256th of it."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, dtype=policy, kernel_initializer="ones")(inputs))
    model.compile(loss="mse")
    objective = Objective(model, (np.ones((600, 1), "float32"), np.zeros((600, 1), "float32")), batch_size=1)
    assert objective.hessian_vector_product(np.ones(1)).tolist() == [2.0]
    assert objective.here()[0] == 1.0
    # The gradient is 128, of which a sum leaves float16.
    model.set_weights([np.full((1, 1), 64.0)])
    assert float(objective.value_and_grad(objective.weights)[1][0][0, 0]) == 128.0


def test_weights_of_two_dtypes_have_one_hessian():
    """Of (a b)² at a = b = 1."""
    inputs, options = keras.Input((1,)), {"use_bias": False, "kernel_initializer": "ones"}
    body = layers.Dense(1, dtype="bfloat16", **options)(inputs)
    model = keras.Model(inputs, layers.Dense(1, dtype="float32", **options)(body))
    model.compile(loss="mse")
    objective = Objective(model, (np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")))
    assert objective.hessian_vector_product(np.array([1.0, 0.0])).tolist() == [2.0, 4.0]


def test_dropout_is_the_same_in_every_evaluation():
    """On torch it is drawn from a generator of torch's own, which goes on as if nothing had been measured."""
    model = normalized_net()
    x, y = X.astype("float32"), Y.astype("float32")
    keras.utils.set_random_seed(1)
    draws = [to_numpy(keras.random.normal((3,)))]
    keras.utils.set_random_seed(1)
    found = sharpness.sharpness(model, (x, y), [0.0, 0.1], training=True, **SILENT)
    draws.append(to_numpy(keras.random.normal((3,))))
    assert found.loss[0] == 0
    np.testing.assert_array_equal(*draws)


def test_a_model_with_frozen_layers_is_met_on_the_way():
    """What is trainable in one of them need not be in the other."""
    here, there = normalized_net(), normalized_net()
    there.layers[1].trainable = False
    x, y = X.astype("float32"), Y.astype("float32")
    surface = sharpness.loss_surface(here, (x, y), there, dimensions=1, num_points=2, span=(0, 1), **SILENT)
    assert surface.loss[1] == pytest.approx(there.evaluate(x, y, verbose=0), rel=1e-5)


def test_attention_has_a_hessian():
    inputs = keras.Input((4, 3))
    outputs = layers.Dense(2)(layers.Flatten()(layers.MultiHeadAttention(1, 2)(inputs, inputs)))
    model = keras.Model(inputs, outputs)
    model.compile(loss="mse")
    random = np.random.default_rng(0)
    objective = Objective(model, (random.normal(size=(5, 4, 3)).astype("float32"), np.zeros((5, 2), "float32")))
    v = random.normal(size=objective.num_parameters)
    # By a difference of gradients.
    h, weights = 1e-3, objective.weights
    ends = [
        objective.value_and_grad([w + sign * h * d for w, d in zip(weights, objective.unflatten(v))])[1]
        for sign in (1, -1)
    ]
    expected = flat([(to_numpy(a) - to_numpy(b)) / (2 * h) for a, b in zip(*ends)])
    np.testing.assert_allclose(objective.hessian_vector_product(v), expected, rtol=0.02, atol=2e-3)


def test_a_loss_that_no_weight_enters_has_a_hessian_of_zero():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.compile(loss=lambda y, y_pred: ops.mean(y))
    assert sharpness.hessian_trace(model, (np.ones((4, 2)), np.ones((4, 1))), **SILENT) == (0.0, 0.0)


def test_nothing_changes():
    model = normalized_net()
    before = [to_numpy(v) for v in model.variables]
    x, y = X.astype("float32"), Y.astype("float32")
    sharpness.sharpness(model, (x, y), training=True, **SILENT)
    sharpness.hessian_eigenvalues(model, (x, y), 1, **SILENT)
    sharpness.loss_surface(model, (x, y), num_points=2, **SILENT)
    for ours, theirs in zip(model.variables, before):
        np.testing.assert_array_equal(to_numpy(ours), theirs)


def test_progress_is_shown(capsys):
    model, nothing = quadratic()
    sharpness.hessian_trace(model, nothing, num_probes=2)
    assert "3/3" in capsys.readouterr().out


def uncompiled():
    return tanh_net(keras.Model), (X, Y)


def unbuilt():
    model = keras.Sequential([layers.Dense(2)])
    model.compile(loss="mse")
    return model, (X, Y)


def frozen():
    model = tanh_net(keras.Model)
    model.trainable = False
    model.compile(loss="mse")
    return model, (X, Y)


def compiled(data, loss="mse"):
    model = tanh_net(keras.Model)
    model.compile(loss=loss)
    return model, data


def reduced(reduction):
    return compiled((X, Y), [keras.losses.MeanSquaredError(reduction=reduction)])


class Counting(keras.utils.PyDataset):
    """Knows how many of its batches were read in each pass."""

    num_batches = 3

    def __init__(self):
        super().__init__(workers=0)
        self.passes = []

    def __getitem__(self, index):
        if index == 0:
            self.passes.append(0)
        self.passes[-1] += 1
        return X[index : index + 2], Y[index : index + 2]


def test_data_are_read_to_their_end():
    # TensorFlow's cache of a reader that stops early holds, now and then, what that reader saw and no more.
    model, given = compiled(Counting())
    sharpness.sharpness(model, given, m=3, **SILENT)
    sharpness.hessian_trace(model, given, num_probes=1, **SILENT)
    assert set(given.passes) == {3}


class Endless(keras.utils.PyDataset):
    num_batches = None


class Empty(keras.utils.PyDataset):
    """Which is not known before it is read."""

    def __len__(self):
        return 0


BAD = {
    "is not compiled": uncompiled,
    "is not built": unbuilt,
    "no trainable weights": frozen,
    "holds no examples": lambda: compiled((X[:0], Y[:0])),
    "`data` holds no examples": lambda: compiled(Empty()),
    "Received `data` without labels for": lambda: compiled((X,)),
    r"whose loss is 'mse'; expected `\(x, y\)`": lambda: compiled(X),
    "batch_size=0": lambda: (*compiled((X, Y)), {"batch_size": 0}),
    "batch_size=2.5": lambda: (*compiled((X, Y)), {"batch_size": 2.5}),
    "batch_size=None": lambda: (*compiled((X, Y)), {"batch_size": None}),
    "`reduction='sum'`": lambda: reduced("sum"),
    "`reduction='none'`": lambda: reduced("none"),
    "`reduction=None`": lambda: reduced(None),
    "is nan, of which": lambda: compiled((X * np.nan, Y)),
    "what can be read again": lambda: compiled(batch for batch in [(X, Y)]),
    "Received a NoneType": lambda: compiled(None),
    "goes on for ever": lambda: compiled(Endless()),
    "no more than 26 eigenvalues": lambda: (*compiled((X, Y)), {"k": 27}),
    "expected an integer": lambda: (*compiled((X, Y)), {"k": 0}),
    "expected 'LA', 'SA' or 'LM'": lambda: (*compiled((X, Y)), {"which": "XX"}),
    "Received a Dense": lambda: (layers.Dense(1), (X, Y)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_says_what_to_do(message):
    model, given, *options = BAD[message]()
    with pytest.raises(ValueError, match=message):
        sharpness.hessian_eigenvalues(model, given, **(options[0] if options else {}), **SILENT)


@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
def test_other_means_are_measured(net, reduction):
    expected = Objective(net, (X, Y), 5).here()[0]
    net.compile(loss=keras.losses.MeanSquaredError(reduction=reduction, dtype="float64"))
    assert Objective(net, (X, Y), 5).here()[0] == pytest.approx(expected, rel=RTOL)


def test_a_compute_loss_of_ones_own_may_need_no_labels():
    class Autoencoder(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, x, y_pred, sample_weight, training)

    inputs = keras.Input((3,))
    model = Autoencoder(inputs, layers.Dense(3)(inputs))
    model.compile(loss="mse")
    x = X.astype("float32")
    kernel, bias = weights_of(model)
    assert Objective(model, (x,)).here()[0] == pytest.approx(np.mean((x @ kernel + bias - x) ** 2), rel=1e-5)


def test_other_bad_input_says_what_to_do():
    model, given = compiled((X, Y))
    for call, message in [
        (lambda: sharpness.sharpness(model, given, m=0), "a number of examples"),
        (lambda: sharpness.sharpness(model, given, m=True), "Received `m=True`"),
        (lambda: sharpness.sharpness(model, given, rho=-1.0), "Received `rho=-1.0`"),
        (lambda: sharpness.sharpness(model, given, rho=[0.1, "wide"]), "Received `rho='wide'`"),
        (lambda: sharpness.average_sharpness(model, given, np.inf), "Received `sigma=inf`"),
        (lambda: sharpness.average_sharpness(model, given, "wide"), "Received `sigma='wide'`"),
        (lambda: sharpness.hessian_density(model, given, order=2, width=0.0), "width=0.0"),
        (lambda: sharpness.hessian_density(model, given, order=2, num_points=0), "num_points=0"),
        (lambda: sharpness.sharpness(model, given, rho=[]), "an empty list"),
        (lambda: sharpness.sharpness(model, given, adaptive=True, p=1.0), "as in ASAM"),
        (lambda: sharpness.average_sharpness(model, given, -0.1), "the standard deviation of the noise"),
        (lambda: sharpness.average_sharpness(model, given, 0.1, 0), "num_samples"),
        (lambda: sharpness.hessian_density(model, given, order=27), "no more than 26"),
        (lambda: sharpness.hessian_trace(model, given, num_probes=0), "num_probes"),
        (lambda: sharpness.loss_surface(model, given, dimensions=3), "a line, or 2"),
        (lambda: sharpness.hessian_eigenvalues(model, given, tolerance=-1), "Received `tolerance=-1`"),
        (lambda: sharpness.loss_surface(model, given, num_points=1), "num_points"),
        (lambda: sharpness.loss_surface(model, given, span=(1,)), r"Received `span=\(1,\)`"),
        (lambda: sharpness.loss_surface(model, given, span=(1, -1)), r"Received `span=\(1, -1\)`"),
        (lambda: sharpness.loss_surface(model, given, span=(0, np.inf)), r"Received `span=\(0, inf\)`"),
        (lambda: sharpness.loss_surface(model, given, span="ab"), "Received `span='ab'`"),
        (lambda: sharpness.loss_surface(model, given, normalized_net()), "two models of one architecture"),
        (lambda: sharpness.loss_surface(model, given, model, verbose=0), "the same weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_second_derivative_that_is_not_finite_is_said():
    inputs = keras.Input((1,))
    model = keras.Model(inputs, ops.sqrt(layers.Dense(1, kernel_initializer="zeros", use_bias=False)(inputs)))
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="second derivative of the loss"):
        sharpness.hessian_trace(model, (np.ones((2, 1)), np.ones((2, 1))), **SILENT)


def test_a_hessian_of_zero_has_no_eigenvalues_to_find():
    """A linear loss."""
    inputs = keras.Input((30,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.compile(loss=lambda y, y_pred: ops.mean(y_pred))
    with pytest.raises(ValueError, match="ARPACK found no 2 eigenvalues"):
        sharpness.hessian_eigenvalues(model, (np.ones((4, 30)), np.ones((4, 1))), 2, **SILENT)


def test_sam_models_are_measured_as_they_are():
    """The rule plays no part."""
    plain = tanh_net(keras.Model)
    plain.compile(loss="mse")
    model = keras_sam.SAMModel.from_model(plain)
    model.compile("sgd", "mse", sam=keras_sam.SAM(0.1))
    x, y = X.astype("float32"), Y.astype("float32")
    found = [sharpness.sharpness(net, (x, y), 0.2, **SILENT).loss for net in (plain, model)]
    assert found[0] == found[1]


class Expert(layers.Layer):
    """x w₀, and x w₁ as well where a batch has a row above 0: eagerly w₁ is no part of the others."""

    def build(self, input_shape):
        self.always, self.above = (self.add_weight(shape=(1,), initializer="ones") for _ in range(2))

    def call(self, x):
        return x * self.always + (ops.relu(x) * self.above if bool(ops.any(x > 0)) else 0.0)


@pytest.mark.skipif(BACKEND != "torch", reason="a graph has no such layer")
@pytest.mark.parametrize("batch_size", [4, 2])
@pytest.mark.parametrize("order", [1, -1])
def test_a_weight_that_some_batches_do_without(order, batch_size):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Expert()(inputs))
    model.compile(loss="mse")
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]], "float32")[::order]
    # L = mean of (x (w₀ + [x > 0] w₁))² at w = 1, with ∇L = (15, 10), and H = (5, 5; 5, 5).
    found = sharpness.sharpness(model, (x, np.zeros_like(x)), rho=0.5, batch_size=batch_size, **SILENT).loss
    e = 0.5 * np.array([15.0, 10.0]) / np.hypot(15, 10)
    rise = np.mean((x * (1 + e[0] + (x > 0) * (1 + e[1]))) ** 2) - np.mean((x * (1 + (x > 0))) ** 2)
    assert found == pytest.approx(rise, rel=1e-5)


def test_a_radius_is_no_schedule(net):
    """Which step of it would be meant?"""
    with pytest.raises(ValueError, match=r"`rho` is the radius. Received `rho=<.*expected a finite number"):
        sharpness.sharpness(net, (X, Y), rho=keras_sam.schedules.EveryK(0.1, k=2), **SILENT)
    with pytest.raises(ValueError, match=r"`rho` is the radius. Received `rho=<.*expected a finite number"):
        keras_sam.callbacks.SharpnessLogger((X, Y), rho=keras_sam.schedules.EveryK(0.1, k=2))
    with pytest.raises(ValueError, match="`tolerance` is the relative accuracy"):
        keras_sam.callbacks.SharpnessLogger((X, Y), tolerance=-0.1)
