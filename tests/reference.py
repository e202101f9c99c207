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


def loss_and_gradient(weights, x, y, decay=0.0):
    A, a, B, b = weights
    hidden = np.tanh(x @ A + a)
    error = hidden @ B + b - y
    loss = (error**2).mean() + decay / 2 * ((A**2).sum() + (B**2).sum())
    d_output = 2 * error / error.size
    d_hidden = d_output @ B.T * (1 - hidden**2)
    gradient = [x.T @ d_hidden + decay * A, d_hidden.sum(0), hidden.T @ d_output + decay * B, d_output.sum(0)]
    return loss, gradient


def sam_gradient(weights, x, y, rho, p=2, decay=0.0):
    """Equation 3, with the clean loss and the sharpness L(w + ε̂) − L(w)."""
    loss, gradient = loss_and_gradient(weights, x, y, decay)
    perturbed = [w + e for w, e in zip(weights, epsilon(gradient, rho, p))]
    perturbed_loss, gradient = loss_and_gradient(perturbed, x, y, decay)
    return loss, perturbed_loss - loss, gradient


def train(weights, batches, learning_rate, rho, p=2, decay=0.0, momentum=0.0, num_replicas=1):
    """Algorithm 1 over batches, each replica with an ε̂ of its own from its share of the batch."""
    velocity = [np.zeros_like(w) for w in weights]
    for x, y in batches:
        shares = zip(np.split(x, num_replicas), np.split(y, num_replicas))
        gradients = [sam_gradient(weights, x_, y_, rho, p, decay)[2] for x_, y_ in shares]
        gradient = [np.mean(g, axis=0) for g in zip(*gradients)]
        velocity = [momentum * v - learning_rate * g for v, g in zip(velocity, gradient)]
        weights = [w + v for w, v in zip(weights, velocity)]
    return weights
