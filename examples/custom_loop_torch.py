"""SAM in a training loop of your own, on torch: `python examples/custom_loop_torch.py`.

The model is a plain `torch.nn.Module`, and `torch.func.functional_call` makes it a function of its
weights. The optimizer finds the gradient where it always does, in `parameter.grad`. The parameters' names tell `ASAM`
and `where` which weight is which. With dropout or BatchNormalization both passes need the same random numbers, and the
second one buffers of its own: `sam_step` in `custom_loop_torch_ddp.py` shows how.
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch
from sklearn.datasets import load_digits

import keras_sam


def main(epochs=10, rule=keras_sam.SAM(rho=0.05)):  # noqa: B008
    """Trains on scikit-learn's digits and returns the accuracy on the last 297 of them."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    # On the device that Keras computes on, a GPU if there is one: the rule does so too.
    images, labels = keras.ops.convert_to_tensor(images / 16, "float32"), keras.ops.convert_to_tensor(labels)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).to(images.device)
    names, parameters = zip(*model.named_parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    iteration, state = 0, ()  # what FriendlySAM and LookSAM keep from step to step
    for _ in range(epochs):
        for rows in torch.randperm(1500).split(50):

            def loss_of(weights, rows=rows):
                logits = torch.func.functional_call(model, dict(zip(names, weights)), images[rows])
                return torch.nn.functional.cross_entropy(logits, labels[rows])

            value_and_grad = keras_sam.backend.value_and_grad(loss_of)
            gradient, state = rule.gradient(value_and_grad, list(parameters), rule.step(iteration, names, state))
            for parameter, g in zip(parameters, gradient):
                parameter.grad = g
            optimizer.step()
            iteration += 1
    with torch.no_grad():
        predicted = model(images[1500:]).argmax(dim=1)
    return float((predicted == labels[1500:]).float().mean())


if __name__ == "__main__":
    print(f"Test accuracy: {main():.3f}")
