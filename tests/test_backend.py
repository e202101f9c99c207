"""What is special about each backend's train step: purity and donation, compilers, layers that it cannot follow."""

import ast
import functools
import pathlib

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers, ops
from oracle import values_of

import keras_sam
from keras_sam import backend

on_jax = pytest.mark.skipif(BACKEND != "jax", reason="about the JAX backend")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="about the torch backend")
X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X[:, :2] * 0.5


def test_the_files_of_all_backends_have_the_same_names():
    folder = pathlib.Path(keras_sam.backend.__file__).parent
    names = []
    for name in ("tensorflow", "jax", "torch"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
        # What a file takes from another to pass it on is in its `__all__`.
        passed_on = ast.literal_eval(assigned.pop("__all__")) if "__all__" in assigned else []
        names.append({n for n in {*defined, *assigned, *passed_on} if not n.startswith("_")})
    assert names[0] == names[1] == names[2] == set(keras_sam.backend.__all__)


def made(rule="sam", cls=keras_sam.SAMModel, layer=None, **options):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    x = layers.Dense(8, "tanh")(inputs)
    model = cls(inputs, layers.Dense(2)(x if layer is None else layer(x)))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options, **({} if rule is None else {"sam": rule}))
    return model


def assert_same(model, expected, rtol=1e-5, atol=1e-6):
    for got, want in zip(values_of(model.variables), values_of(expected.variables), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@on_jax
def test_the_train_step_is_pure_and_gives_its_state_away():
    """It leaves every variable alone, and XLA may reuse what it is given, as in plain Keras."""
    for cls, rule in [(keras_sam.SAMModel, keras_sam.SAM(0.1, m=8)), (keras.Model, None)]:
        model = made(rule, cls)
        model.train_on_batch(X, Y)
        groups = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
        before = [values_of(group) for group in groups]
        state = tuple([ops.copy(v.value) for v in group] for group in [*groups, model.metrics_variables])
        _, new_state = model.train_function(state, iter([(ops.convert_to_tensor(X), ops.convert_to_tensor(Y))]))
        assert all(array.is_deleted() for array in state[0] + state[2])
        assert not any(array.is_deleted() for group in new_state for array in group)
        for group, values in zip(groups, before):
            for got, want in zip(values_of(group), values):
                np.testing.assert_array_equal(got, want)


@on_jax
def test_rematerialized_layers_train_as_others_do():
    with keras.RematScope(mode="full"):
        remembered = layers.Dense(4, "tanh")
    model, expected = made(layer=remembered), made(layer=layers.Dense(4, "tanh"))
    expected.set_weights(model.get_weights())
    for m in (model, expected):
        m.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(model, expected)


@on_torch
def test_a_wrapped_module_is_refused_by_name():
    import torch

    class Net(keras_sam.SAMModel):
        def __init__(self):
            super().__init__()
            self.wrapped = layers.TorchModuleWrapper(torch.nn.Linear(3, 2), name="wrapped")

        def call(self, x):
            return self.wrapped(x)

    with pytest.raises(ValueError, match=r"(?s)own copy of `wrapped`.*TorchModuleWrapper.*sam=None"):
        Net().compile("sgd", "mse")


class Routed(keras_sam.SAMModel):
    """s a x where s > 0, else s b x: another weight is used at w + ε̂ than at w."""

    def build(self, input_shape):
        self.s, self.a, self.b = (self.add_weight(shape=(), name=name) for name in "sab")
        self.built = True

    def call(self, x):
        chosen = self.a if float(ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(self.s)))) > 0 else self.b
        return self.s * chosen * x


@pytest.mark.skipif(BACKEND == "jax", reason="a layer cannot look at values there")
@pytest.mark.parametrize(
    "rho", [0.5, keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.5, 0.0])], ids=["constant", "schedule"]
)
def test_layers_may_use_other_weights_where_they_are_perturbed(rho):
    """The gradient is that at w + ε̂, in which `a` has no part and `b` has one."""
    model = Routed()
    model.build((None, 1))
    model.set_weights([np.array(value) for value in (0.1, -1.0, 3.0)])
    model.compile(
        keras.optimizers.SGD(1.0), lambda y, y_pred: ops.mean(y_pred), sam=keras_sam.SAM(rho), run_eagerly=True
    )
    model.train_on_batch(np.ones((4, 1), "float32"), np.zeros((4, 1), "float32"))
    moved = 0.1 + 0.5 * -1.0 / np.hypot(0.1, 1.0)
    np.testing.assert_allclose(model.get_weights(), [0.1 - 3.0, -1.0, 3.0 - moved], rtol=1e-6)


@on_torch
def test_rematerialized_layers_are_refused_by_name():
    with keras.RematScope(mode="full"):
        layer = layers.Dense(4, name="remembered")
    with pytest.raises(ValueError, match=r"`remembered` was made under `keras.RematScope`, which on the torch"):
        made(layer=layer)


@on_torch
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile_gives_the_same_numbers(compiler, monkeypatch):
    # What SAM could break is the capture of both passes; the C++ that follows is torch's own, and takes a minute.
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler))
    model, expected = made(jit_compile=True), made()
    for m in (model, expected):
        m.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(model, expected)


@on_torch
def test_no_graph_and_no_gradient_outlive_a_step():
    model = made(keras_sam.SAM(0.1, m=8, second_order=True))
    model.train_on_batch(X, Y)
    for variable in model.variables + model.optimizer.variables + model.metrics_variables:
        assert variable.value.grad is None
        assert variable.value.grad_fn is None


@on_torch
def test_unseeded_dropout_draws_the_same_mask_in_both_passes_and_another_one_next_step():
    masks = []

    class Recorder(layers.Layer):
        def call(self, x):
            if ops.shape(x)[0] == 24:
                masks.append(ops.convert_to_numpy(ops.stop_gradient(x)) != 0)
            return x

    inputs = keras.Input((3,))
    x = Recorder()(layers.Dropout(0.5)(layers.Dense(64)(inputs)))
    model = keras_sam.SAMModel(inputs, layers.Dense(2)(x))
    model.compile("sgd", "mse", sam=keras_sam.SAM(ascent_steps=2))
    model.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    first, second = masks[-6:-3], masks[-3:]
    for step in (first, second):
        np.testing.assert_array_equal(step[0], step[1])
        np.testing.assert_array_equal(step[0], step[2])
    assert (first[0] != second[0]).mean() > 0.4  # two independent masks differ in half of their entries


def test_an_overflow_in_one_micro_batch_skips_the_update_and_halves_the_scale():
    def build(m):
        inputs = keras.Input((3,))
        model = keras_sam.SAMModel(inputs, layers.Dense(2, dtype="mixed_float16")(inputs))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1024.0)
        model.compile(optimizer, "mse", sam=keras_sam.SAM(0.1, p=float("inf"), m=m))
        return model, optimizer

    for bad, scale, iterations in [(1e4, 512.0, 0), (1.0, 1024.0, 1)]:
        x = X.copy()
        x[10] = bad  # of the second micro-batch of three
        model, optimizer = build(8)
        before = values_of(model.trainable_variables)
        model.train_on_batch(x, Y)
        assert float(optimizer.dynamic_scale) == scale
        assert int(optimizer.iterations) == iterations
        moved = any((got != want).any() for got, want in zip(values_of(model.trainable_variables), before))
        assert moved == bool(iterations)


@on_jax
@pytest.mark.parametrize("options", [{}, {"strides": 2}, {"dilation_rate": 2}, {"groups": 2}], ids=str)
def test_gradients_of_convolutions_in_a_conditional_have_the_layout_that_xla_is_fast_at(options):
    import jax
    from jax import lax

    layer = layers.Conv2D(4, 3, padding="same", **options)
    layer.build((2, 7, 7, 4))
    x = keras.random.normal((2, 7, 7, 4), seed=0)

    def loss(tensors):
        kernel, x = tensors
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return ops.sum(ops.square(layer(x)))

    def gradient(kernel, x):
        return backend.value_and_grad(loss)([kernel, x])[1]

    def inside(kernel, x):
        return backend.cond(ops.any(x > 0), lambda: gradient(kernel, x), lambda: [kernel, x])

    for got, want in zip(jax.jit(inside)(layer.kernel.value, x), gradient(layer.kernel.value, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    branches = next(e for e in jax.make_jaxpr(inside)(layer.kernel.value, x).eqns if e.primitive.name == "cond")
    equations = [e for branch in branches.params["branches"] for e in branch.jaxpr.eqns]
    found = [e.params["dimension_numbers"] for e in equations if e.primitive is lax.conv_general_dilated_p]
    assert found == 3 * [lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))]
