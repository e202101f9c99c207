"""SAM in a training loop of your own, on torch with DistributedDataParallel, of a Keras model or a plain module.

Run `torchrun --nproc-per-node=2 examples/custom_loop_torch_ddp.py`, or with `python` for a single process.

Each process chooses its ε̂ by the gradient of its own share of the batch, inside `no_sync`. The other gradient is taken
at `parameter + ε̂`, so that it flows into the parameters, where DistributedDataParallel averages it: once a step, as
without SAM. Rules that compare both gradients or keep a state (GSAM, LookSAM, FriendlySAM) do so on each process by its
own, and what comes of it is averaged at the end.
"""

import contextlib
import itertools
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

import keras_sam


class KerasModule(torch.nn.Module):
    """A Keras model as a module whose tensors `torch.func.functional_call` can replace. Plain modules need none.

    It gives the predictions alone: what regularizers and `add_loss` ask for is to be added to the loss.
    """

    def __init__(self, model):
        super().__init__()
        self.models = [model]  # in a list, or its parameters were this module's a second time
        for i, variable in enumerate(model.trainable_variables):  # two of them can have the same path
            self.register_parameter(f"{i}/{variable.path}", variable.value)
        for i, variable in enumerate(model.non_trainable_variables):
            self.register_buffer(f"state_{i}", variable.value.detach())

    def forward(self, x):
        state = list(self.buffers())
        y, updated = self.models[0].stateless_call(list(self.parameters()), state, x, training=self.training)
        for buffer, value in zip(state, updated):
            buffer.copy_(value)
        return y


def sam_step(model, loss_of, optimizer, rule, iteration, x, y, state=()):
    """One step of `optimizer` along the rule's gradient of `loss_of(model(x), y)`; returns the rule's new state."""
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    calls, seed = itertools.count(), int(torch.randint(2**31, ()))
    average_here = rule.compares_gradients or bool(rule.slots)

    def value_and_grad(weights):
        tensors = dict(zip(names, weights))
        if next(calls):  # BatchNormalization's statistics are those of the first pass, at the clean weights
            tensors |= {name: buffer.clone() for name, buffer in buffers.items()}
        model.zero_grad()
        no_sync = model.no_sync() if average_here or keras_sam.in_ascent() else contextlib.nullcontext()
        with no_sync, torch.random.fork_rng(devices=[]):  # those of GPUs are seeded anew in each pass
            torch.manual_seed(seed + dist.get_rank())  # dropout's masks are the same in all passes of a process
            loss = loss_of(torch.func.functional_call(model, tensors, x), y)
            loss.backward()
        return loss.detach(), [parameter.grad for parameter in parameters]

    # A rule that draws random numbers draws others on each process.
    step = rule.step(iteration, names, state)._replace(share=dist.get_rank())
    gradient, state = rule.gradient(value_and_grad, list(parameters), step)
    if average_here:
        # A weight without a gradient here may have one on another process.
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient)]
        # Nor has DistributedDataParallel sent BatchNormalization's statistics to all processes.
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        for tensor in itertools.chain(gradient, statistics, *state):
            dist.all_reduce(tensor.div_(dist.get_world_size()))
    for parameter, g in zip(parameters, gradient):
        parameter.grad = g
    optimizer.step()
    return state


def main(epochs=10, rule=keras_sam.SAM(rho=0.05)):  # noqa: B008
    """Trains on scikit-learn's digits and returns the accuracy on the last 297 of them."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    # On the device that Keras computes on, as the weights are.
    images, labels = keras.ops.convert_to_tensor(images / 16, "float32"), keras.ops.convert_to_tensor(labels)
    layers = [keras.layers.Dense(64, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(10)]
    model = DistributedDataParallel(KerasModule(keras.Sequential([keras.Input((64,)), *layers])))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    iteration, state = 0, ()
    for _ in range(epochs):
        for rows in torch.randperm(1500).split(50):  # the same on every process, which takes its share of it
            rows = rows[dist.get_rank() :: dist.get_world_size()]
            batch = images[rows], labels[rows]
            state = sam_step(model, torch.nn.functional.cross_entropy, optimizer, rule, iteration, *batch, state)
            iteration += 1
    model.eval()
    with torch.no_grad():
        predicted = model(images[1500:]).argmax(dim=1)
    return float((predicted == labels[1500:]).float().mean())


if __name__ == "__main__":
    if torch.cuda.is_available():  # a GPU for each process, which Keras calls "cuda"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    group = "nccl" if torch.cuda.is_available() else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(group)
    else:
        dist.init_process_group(group, store=dist.HashStore(), rank=0, world_size=1)
    accuracy = main()
    if dist.get_rank() == 0:
        print(f"Test accuracy: {accuracy:.3f}")
    dist.destroy_process_group()
