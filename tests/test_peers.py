"""The same weights as implementations that others wrote, after five steps from the same start."""

import pathlib

import keras
import numpy as np
import pytest
from conftest import BACKEND, required
from keras import layers, ops
from oracle import to_numpy, values_of

import keras_sam

RHO, RATE, MOMENTUM = 0.1, 0.1, 0.9
X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]


def net(cls):
    """Without BatchNormalization, whose statistics the others update in both passes."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    return cls(inputs, layers.Dense(2)(layers.Dense(16, "tanh")(inputs)))


def ours(rule):
    model = net(keras_sam.SAMModel)
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse", sam=rule)
    for batch in BATCHES:
        model.train_on_batch(*batch)
    return values_of(model.trainable_variables)


def assert_same(got, want):
    start = values_of(net(keras.Model).trainable_variables)
    for g, w, s in zip(got, want, start, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
        assert np.abs(w - s).max() > 0.01


@pytest.mark.skipif(BACKEND != "jax", reason="optax is JAX's")
def test_optax():
    optax, jax = required("optax"), required("jax")
    model = net(keras.Model)
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    sam = optax.contrib.sam(optax.sgd(RATE, MOMENTUM), adversary, sync_period=2, opaque_mode=True)
    params = [v.value for v in model.trainable_variables]
    state = sam.init(params)
    for x, y in BATCHES:

        def loss(params, _=None, x=x, y=y):
            return ops.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

        updates, state = sam.update(jax.grad(loss)(params), state, params, grad_fn=jax.grad(loss))
        params = optax.apply_updates(params, updates)
    assert_same(ours(keras_sam.SAM(RHO)), [to_numpy(p) for p in params])


@pytest.mark.skipif(BACKEND != "torch", reason="pytorch_optimizer is torch's")
def test_pytorch_optimizer():
    peers, torch = required("pytorch_optimizer"), required("torch")
    model = net(keras.Model)
    parameters = [v.value for v in model.trainable_variables]
    optimizer = peers.SAM(parameters, torch.optim.SGD, rho=RHO, lr=RATE, momentum=MOMENTUM)
    for x, y in BATCHES:

        def backward(x=x, y=y):
            ((model(ops.convert_to_tensor(x)) - ops.convert_to_tensor(y)) ** 2).mean().backward()

        optimizer.zero_grad()
        backward()
        optimizer.first_step(zero_grad=True)
        backward()
        optimizer.second_step(zero_grad=True)
    assert_same(ours(keras_sam.SAM(RHO)), values_of(model.trainable_variables))


class ConstantRho:
    """What pytorch_optimizer asks its `rho_scheduler` for."""

    def step(self):
        return RHO


@pytest.mark.skipif(BACKEND != "torch", reason="pytorch_optimizer is torch's")
@pytest.mark.parametrize("rule", ["GSAM", "FriendlySAM"])
def test_pytorch_optimizers_variants(rule):
    """Both with a closure. GSAM's is not adaptive: of that mode others have two versions, which disagree."""
    peers, torch = required("pytorch_optimizer"), required("torch")
    model = net(keras.Model)
    parameters = [v.value for v in model.trainable_variables]
    if rule == "GSAM":
        sgd = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
        optimizer = peers.GSAM(parameters, sgd, torch.nn.Module(), ConstantRho(), alpha=0.25)
        mine = keras_sam.GSAM(RHO, alpha=0.25)
    else:
        optimizer = peers.FriendlySAM(
            parameters, torch.optim.SGD, rho=RHO, sigma=0.75, lmbda=0.6, lr=RATE, momentum=MOMENTUM
        )
        mine = keras_sam.FriendlySAM(RHO, sigma=0.75, decay=0.6)
    for x, y in BATCHES:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = ((model(ops.convert_to_tensor(x)) - ops.convert_to_tensor(y)) ** 2).mean()
            loss.backward()
            return None, loss.detach()

        if rule == "FriendlySAM":
            closure()
        optimizer.step(closure)
    assert_same(ours(mine), values_of(model.trainable_variables))


@pytest.mark.skipif(BACKEND != "torch", reason="of torch's networks")
def test_the_networks_of_the_benchmark_are_the_same_in_plain_torch(monkeypatch):
    torch = required("torch")
    monkeypatch.syspath_prepend(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
    import resnet
    import torch_nets

    for name in ("resnet", "wide_resnet"):
        theirs = getattr(torch_nets, name)()
        shapes = sorted(tuple(v.shape) for v in getattr(resnet, name)().trainable_variables)
        in_our_order = [
            tuple(p.permute(*range(2, p.ndim), 1, 0).shape) if p.ndim > 1 else tuple(p.shape)
            for p in theirs.parameters()
        ]
        assert sorted(in_our_order) == shapes
        assert theirs(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
