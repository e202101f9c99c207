"""The paper in plain NumPy, float64, to be read beside it: the oracle of the tests.

The net is ŷ = tanh(x A + a) B + b, its loss the mean squared error plus ½·decay·Σw² over A and B.
"""

import math

import numpy as np


def norm(gradient, p):
    """‖g‖_p over all entries of a list of arrays."""
    flat = np.abs(np.concatenate([g.ravel() for g in gradient]))
    return flat.max() if p == math.inf else (flat**p).sum() ** (1 / p)


def epsilon(gradient, rho, p):
    """Equation 2; where q is infinite, its limit: the one largest entry moves."""
    if p == 1:
        largest = max(np.abs(g).max() for g in gradient)
        return [rho * np.sign(g) * (np.abs(g) == largest) for g in gradient]
    q = 1.0 if p == math.inf else p / (p - 1)
    denominator = norm(gradient, q) ** (q / p) if p != math.inf else 1.0
    return [rho * np.sign(g) * np.abs(g) ** (q - 1) / denominator for g in gradient]


def ascent(gradient_at, weights, rho, p=2, ascent_steps=1, moved=None):
    """ε̂ after some steps of projected ascent (C.6); only the weights that are `moved` count and move."""
    moved = [True] * len(weights) if moved is None else moved
    e = [np.zeros_like(w) for w in weights]
    for _ in range(ascent_steps):
        gradient = gradient_at([w + e_ for w, e_ in zip(weights, e)])
        step = iter(epsilon([g for g, m in zip(gradient, moved) if m], rho, p))
        e = [e_ + next(step) if m else e_ for e_, m in zip(e, moved)]
        length = norm(e, p)
        e = [e_ * min(1.0, rho / length) for e_ in e]
    return e


def second_order_term(hessian, gradient, perturbed_gradient, rho, p=2):
    """(∂ε̂/∂w)ᵀ g̃ = H (∂ε̂/∂g)ᵀ g̃ with the Jacobian of equation 2 by central differences; flat vectors."""
    h = 1e-6 * np.abs(gradient).max()
    columns = [
        (epsilon([gradient + h * unit], rho, p)[0] - epsilon([gradient - h * unit], rho, p)[0]) / (2 * h)
        for unit in np.eye(len(gradient))
    ]
    jacobian = np.stack(columns, axis=1)
    return hessian @ jacobian.T @ perturbed_gradient


def loss_and_gradient(weights, x, y, decay=0.0):
    A, a, B, b = weights
    hidden = np.tanh(x @ A + a)
    error = hidden @ B + b - y
    loss = (error**2).mean() + decay / 2 * ((A**2).sum() + (B**2).sum())
    d_output = 2 * error / error.size
    d_hidden = d_output @ B.T * (1 - hidden**2)
    gradient = [x.T @ d_hidden + decay * A, d_hidden.sum(0), hidden.T @ d_output + decay * B, d_output.sum(0)]
    return loss, gradient


def sam_gradient(weights, x, y, rho, p=2, decay=0.0, ascent_steps=1, ascent_fraction=1.0, moved=None):
    """Equation 3, with the clean loss and the sharpness L(w + ε̂) − L(w)."""
    share = max(1, int(ascent_fraction * len(x) + 0.5))
    clean = x[:share], y[:share]
    loss, _ = loss_and_gradient(weights, *clean, decay)
    e = ascent(lambda w: loss_and_gradient(w, *clean, decay)[1], weights, rho, p, ascent_steps, moved)
    perturbed_loss, gradient = loss_and_gradient([w + e_ for w, e_ in zip(weights, e)], x, y, decay)
    return loss, perturbed_loss - loss, gradient


def micro_batch_gradient(weights, x, y, rho, m=None, **options):
    """Section 4.1: each m examples have an ε̂ of their own; what they give is averaged by their numbers."""
    cuts = range(m or len(x), len(x), m or len(x))
    parts = list(zip(np.split(x, cuts), np.split(y, cuts)))
    shares = [len(x_) / len(x) for x_, _ in parts]
    results = [sam_gradient(weights, x_, y_, rho, **options) for x_, y_ in parts]
    losses, sharpnesses, gradients = zip(*results)
    gradient = [sum(s * g for s, g in zip(shares, per_part)) for per_part in zip(*gradients)]
    return np.dot(shares, losses), np.dot(shares, sharpnesses), gradient


def train(weights, batches, learning_rate, rho, momentum=0.0, num_replicas=1, **options):
    """Algorithm 1 over batches, each replica with an ε̂ of its own from its share of the batch."""
    velocity = [np.zeros_like(w) for w in weights]
    for x, y in batches:
        shares = zip(np.split(x, num_replicas), np.split(y, num_replicas))
        gradients = [micro_batch_gradient(weights, x_, y_, rho, **options)[2] for x_, y_ in shares]
        gradient = [np.mean(g, axis=0) for g in zip(*gradients)]
        velocity = [momentum * v - learning_rate * g for v, g in zip(velocity, gradient)]
        weights = [w + v for w, v in zip(weights, velocity)]
    return weights


# The other rules, on flat vectors: w, the gradient at any point, and what the rule keeps. Each returns what is applied.


def unit(v):
    return v / np.sqrt(v @ v)


def orthogonal(a, b):
    return a - (a @ b) / (b @ b) * b


def asam(gradient_at, w, rho, eta, is_bias):
    """Kwon et al. 2021, eq. 8; T is 1 for biases."""
    T, g = np.where(is_bias, 1.0, np.abs(w) + eta), gradient_at(w)
    return gradient_at(w + rho * T**2 * g / np.sqrt(((T * g) ** 2).sum()))


def gsam(gradient_at, w, rho, alpha):
    """Zhuang et al. 2022, algorithm 1."""
    g = gradient_at(w)
    perturbed = gradient_at(w + rho * unit(g))
    return perturbed - alpha * orthogonal(g, perturbed)


def friendly_sam(gradient_at, w, rho, sigma, decay, average):
    """Li et al. 2024, with the average of the step before; `None` in the first. Returns the next average as well."""
    g = gradient_at(w)
    direction = g if average is None else g - sigma * average
    average = g if average is None else decay * average + (1 - decay) * g
    return gradient_at(w + rho * unit(direction)), average


def looksam(gradient_at, w, rho, alpha, is_due, kept):
    """Liu et al. 2022, algorithm 1. Returns the part to keep as well."""
    g = gradient_at(w)
    if is_due:
        perturbed = gradient_at(w + rho * unit(g))
        return perturbed, orthogonal(perturbed, g)
    return g + alpha * np.sqrt(g @ g) * unit(kept), kept


def msam(gradient_at, w, rho, momentum):
    """Becker et al. 2024, algorithm 1, with momentum v = μv + g, 0 in the first step."""
    return gradient_at(w if not momentum.any() else w - rho * unit(momentum))
