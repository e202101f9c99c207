"""torch's DistributedDataParallel: the example's step in two processes, each with an ε̂ of its own."""

import gc
import pathlib
import runpy

import numpy as np
import pytest
import reference
from conftest import BACKEND

if BACKEND != "torch":
    pytest.skip("of torch alone", allow_module_level=True)

import keras
import torch
import torch.distributed as dist
from test_family import RULES as FAMILY
from test_family import expected as expected_of_family
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import keras_sam

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "custom_loop_torch_ddp.py"
RATE, MOMENTUM, RHO, STEPS = 0.125, 0.75, 0.1, 5
RULES = {
    "SAM": ({}, keras_sam.SAM(RHO)),
    "2 steps, p = 4": ({"ascent_steps": 2, "p": 4}, keras_sam.SAM(RHO, p=4, ascent_steps=2)),
}

FAMILY_HERE = ["GSAM", "FriendlySAM", "LookSAM"]


def data():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8 * STEPS, 3)), random.normal(size=(8 * STEPS, 2))
    return list(zip(np.split(x, STEPS), np.split(y, STEPS)))


def start():
    random = np.random.default_rng(1)
    return [random.normal(size=shape) for shape in [(3, 4), (4,), (4, 2), (2,)]]


def torch_net():
    """The net of reference.py, whose matrices torch keeps transposed."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    for parameter, value in zip(net.parameters(), start()):
        parameter.data = torch.tensor(value.T.copy())
    return net


def keras_net(module):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)])
    model.set_weights(start())
    return module(model)


def batch_norm_net():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).double()


class Branches(torch.nn.Module):
    """The net of one layer, that of another which is frozen, and of a third that the first process alone uses."""

    def __init__(self):
        super().__init__()
        self.dense, self.frozen, self.of_the_first = (torch.nn.Linear(3, 2).double() for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x):
        y = self.dense(x) + self.frozen(x)
        return y + self.of_the_first(x) if dist.get_rank() == 0 else y


class Dropping(torch.nn.Module):
    """Remembers the masks that it draws."""

    def __init__(self):
        super().__init__()
        self.dense, self.dropout, self.masks = torch.nn.Linear(3, 16).double(), torch.nn.Dropout(0.5), []

    def forward(self, x):
        mask = self.dropout(torch.ones(len(x), 16, dtype=x.dtype))
        self.masks.append((mask > 0).numpy())
        return (self.dense(x) * mask)[:, :2]


class Drawn(keras_sam.RandomPerturbation):
    """Remembers what it draws."""

    def perturbation(self, weights, gradient, step):
        epsilon = super().perturbation(weights, gradient, step)
        self.drawn = [e.numpy() for e in epsilon]
        return epsilon


def reductions(model, step):
    """The sizes of the gradients that DistributedDataParallel averages in a step."""
    sizes = []

    def hook(state, bucket):
        sizes.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)

    model.register_comm_hook(None, hook)
    step(model)
    return sizes


def trained(rank, example):
    """What one process finds; the tests assert it."""
    sam_step, module = example["sam_step"], example["KerasModule"]
    mse, found = torch.nn.functional.mse_loss, {}
    shares = [[torch.tensor(np.split(a, 2)[rank]) for a in batch] for batch in data()]
    for kind, make in {"torch": torch_net, "keras": lambda: keras_net(module)}.items():
        for name, (_, rule) in RULES.items():
            model = DistributedDataParallel(make())
            optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
            for iteration, (x, y) in enumerate(shares):
                sam_step(model, mse, optimizer, rule, iteration, x, y)
            weights = [p.detach().numpy().copy() for p in model.parameters()]
            found[kind, name] = [w.T for w in weights] if kind == "torch" else weights

    for name in [*FAMILY_HERE, "ASAM"]:
        for kind, make in {"torch": torch_net, "keras": lambda: keras_net(module)}.items():
            model, state = DistributedDataParallel(make()), ()
            optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
            for iteration, (x, y) in enumerate(shares):
                state = sam_step(model, mse, optimizer, FAMILY[name][0], iteration, x, y, state)
            weights = [p.detach().numpy().copy() for p in model.parameters()]
            found[kind, name] = [w.T for w in weights] if kind == "torch" else weights

    for name in FAMILY_HERE:
        torch.manual_seed(0)
        model, state = DistributedDataParallel(Branches(), find_unused_parameters=True), ()
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
        for iteration, (x, y) in enumerate(shares):
            state = sam_step(model, mse, optimizer, FAMILY[name][0], iteration, x, y, state)
        found["branches", name] = [p.detach().numpy().copy() for p in model.parameters()]

    torch.manual_seed(0)
    model, drawn = DistributedDataParallel(Dropping()), Drawn(RHO, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    for rule in (keras_sam.SAM(RHO, ascent_steps=2), drawn):
        sam_step(model, mse, optimizer, rule, 0, *shares[0])
    found["masks"], found["drawn"] = model.module.masks, drawn.drawn

    def plain_step(model):
        mse(model(x), y).backward()

    def step(model):
        sam_step(model, mse, torch.optim.SGD(model.parameters()), keras_sam.SAM(RHO, ascent_steps=2), 0, x, y)

    found["plain"] = reductions(DistributedDataParallel(torch_net()), plain_step)
    found["sam"] = reductions(DistributedDataParallel(torch_net()), step)

    model = DistributedDataParallel(batch_norm_net())
    weight, bias = (p.detach().numpy().copy() for p in model.module[0].parameters())
    sam_step(model, mse, torch.optim.SGD(model.parameters(), RATE), keras_sam.SAM(RHO), 0, *shares[0])
    at_weights = shares[0][0].numpy() @ weight.T + bias
    found["statistics"] = model.module[1].running_mean.numpy(), 0.1 * at_weights.mean(axis=0)
    found["passes"] = int(model.module[1].num_batches_tracked)

    torch.manual_seed(0)
    model = DistributedDataParallel(batch_norm_net())
    weight, bias = (p.detach().numpy().copy() for p in model.module[0].parameters())
    sam_step(model, mse, torch.optim.SGD(model.parameters(), RATE), keras_sam.GSAM(RHO), 0, *shares[0])
    everywhere = data()[0][0] @ weight.T + bias
    found["averaged statistics"] = model.module[1].running_mean.numpy(), 0.1 * everywhere.mean(axis=0)
    return found


def work(rank, folder):
    torch.set_num_threads(1)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    torch.save(trained(rank, runpy.run_path(str(EXAMPLE))), f"{folder}/{rank}")
    # A model that outlives its process group can wait for ever in the group's destructor.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    context = torch.multiprocessing.spawn(work, (str(folder),), nprocs=2, join=False)
    done = any(context.join(timeout=120) for _ in range(2))  # a call waits for one of them
    for process in context.processes:
        process.kill()
    assert done, "The two processes have not ended."
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(2)]


# Keras multiplies matrices in float32 on torch, whatever their dtype.
@pytest.mark.parametrize(("kind", "tolerance"), [("torch", 2e-15), ("keras", 2e-7)])
@pytest.mark.parametrize("name", RULES)
def test_each_process_perturbs_by_its_own_gradient(processes, kind, tolerance, name):
    """Equal to NumPy's two replicas, and bitwise the same on both processes."""
    options, _ = RULES[name]
    expected = reference.train(start(), data(), RATE, RHO, MOMENTUM, num_replicas=2, **options)
    shared = reference.train(start(), data(), RATE, RHO, MOMENTUM, num_replicas=1, **options)
    first, second = (found[kind, name] for found in processes)
    for got, other, want, not_wanted in zip(first, second, expected, shared, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(got, other)
        assert np.abs(want - not_wanted).max() > 1e-4


@pytest.mark.parametrize(("kind", "tolerance"), [("torch", 1e-12), ("keras", 1e-6)])
@pytest.mark.parametrize("name", [*FAMILY_HERE, "ASAM"])
def test_the_family_is_averaged(processes, kind, tolerance, name):
    """As on replicas: each process by its own gradients, from one state, whose mean is kept. ASAM finds the biases."""
    expected = expected_of_family(name, start(), data(), num_parts=2, decay=0.0)
    first, second = (found[kind, name] for found in processes)
    for got, other, want in zip(first, second, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=tolerance)
        np.testing.assert_array_equal(got, other)


def test_a_step_averages_one_gradient_as_a_plain_one_does(processes):
    """Three passes, of which two choose ε̂."""
    for found in processes:
        assert found["sam"] == found["plain"] == [3 * 4 + 4 + 4 * 2 + 2]


def test_the_statistics_are_those_of_the_pass_at_the_weights(processes):
    for found in processes:
        assert found["passes"] == 1
        np.testing.assert_allclose(*found["statistics"], rtol=1e-12)
        np.testing.assert_allclose(*found["averaged statistics"], rtol=1e-12)


@pytest.mark.parametrize("name", FAMILY_HERE)
def test_weights_without_a_gradient_somewhere(processes, name):
    """The frozen ones stay; those that one process uses move alike on both, by half of its gradient."""
    torch.manual_seed(0)
    before = [p.detach().numpy() for p in Branches().parameters()]
    first, second = (found["branches", name] for found in processes)
    for got, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(got, other)
    moved = [not np.array_equal(got, old) for got, old in zip(first, before, strict=True)]
    assert moved == [True, True, False, False, True, True]


def test_the_masks_of_a_process_are_the_same_in_all_passes_of_a_step(processes):
    for found in processes:
        first, second = found["masks"][:3], found["masks"][3:]
        for masks in (first, second):
            for mask in masks[1:]:
                np.testing.assert_array_equal(mask, masks[0])
        assert (first[0] != second[0]).any()
    assert (processes[0]["masks"][0] != processes[1]["masks"][0]).any()


def test_each_process_draws_a_perturbation_of_its_own(processes):
    for got, other in zip(*(found["drawn"] for found in processes), strict=True):
        assert (got != other).all()
