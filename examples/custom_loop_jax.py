"""SAM in a training loop of your own, on JAX with optax: `python examples/custom_loop_jax.py`.

The model is a plain function of a pytree here, without Keras. A rule sees a list of arrays, so the loop flattens the
tree, and says by their paths which array is which, for `ASAM` and `where`; the rest of it is what one writes for plain
optax, with `rule.gradient` around `jax.value_and_grad`.
"""

import itertools
import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import keras_sam


def initial(key, widths=(64, 64, 10)):
    keys = jax.random.split(key, len(widths) - 1)
    sizes = itertools.pairwise(widths)
    return [{"kernel": jax.random.normal(k, s) * s[0] ** -0.5, "bias": jnp.zeros(s[1])} for k, s in zip(keys, sizes)]


def loss_of(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y).mean()


def logits_of(params, x):
    hidden = jax.nn.relu(x @ params[0]["kernel"] + params[0]["bias"])
    return hidden @ params[1]["kernel"] + params[1]["bias"]


def main(epochs=10, rule=keras_sam.SAM(rho=0.05)):  # noqa: B008
    """Trains on scikit-learn's digits and returns the accuracy on the last 297 of them."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    params = initial(jax.random.key(0))
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = optimizer.init(params), ()  # the second is what FriendlySAM and LookSAM keep from step to step

    @jax.jit
    def train_step(params, state, iteration, x, y):
        named, structure = jax.tree.flatten_with_path(params)
        paths, weights = zip(*((jax.tree_util.keystr(p, simple=True, separator="/"), w) for p, w in named))
        value_and_grad = jax.value_and_grad(lambda weights: loss_of(jax.tree.unflatten(structure, weights), x, y))
        state, kept = state
        gradient, kept = rule.gradient(value_and_grad, list(weights), rule.step(iteration, paths, kept))
        updates, state = optimizer.update(jax.tree.unflatten(structure, gradient), state, params)
        return optax.apply_updates(params, updates), (state, kept)

    random, iteration = np.random.default_rng(0), 0
    for _ in range(epochs):
        for rows in random.permutation(1500).reshape(-1, 50):
            params, state = train_step(params, state, iteration, images[rows], labels[rows])
            iteration += 1
    predicted = logits_of(params, images[1500:]).argmax(axis=1)
    return float((predicted == labels[1500:]).mean())


if __name__ == "__main__":
    print(f"Test accuracy: {main():.3f}")
