"""The term that the paper drops before equation 3: the derivative of ε̂ by the weights (appendix C.4)."""

from keras import ops

from keras_sam import backend
from keras_sam.rules.norms import dot, norm
from keras_sam.rules.step import cast, select


def second_order_term(rule, value_and_grad, weights, clean_gradient, gradient, epsilon, step):
    """(∂ε̂/∂w)ᵀ g̃ = H (∂ε̂/∂g)ᵀ g̃: since H is symmetric, the gradient of ⟨∇L(w), v⟩ for a constant v.

    Args:
        rule: The rule, whose `perturbation` is differentiated.
        value_and_grad, weights, step: As in `SAM.gradient`.
        clean_gradient: List of tensors, the gradient at w.
        gradient: List of tensors, the gradient g̃ at w + ε̂.
        epsilon: List of tensors, ε̂, with `None` for a weight that stays.

    Returns:
        List of tensors, with `None` where the term vanishes.

    Raises:
        ValueError: If the loss has no second derivatives.
    """
    indices = [i for i, e in enumerate(epsilon) if e is not None]
    if not indices:
        return epsilon
    # Run eagerly, a weight may have a gradient at w alone.
    pairs = [(gradient[i], epsilon[i]) for i in indices]
    descent = [ops.zeros_like(e) if g is None else cast(g, e.dtype) for g, e in pairs]
    step, chosen, clean = select(indices, step, weights, clean_gradient)
    _, vector = backend.value_and_grad(lambda g: dot(rule.perturbation(chosen, g, step), descent))(clean)
    # At g = 0, where ε̂ is 0 by definition, the root has no derivative.
    length = norm(clean)
    vector = [ops.where(length > 0, v, ops.zeros_like(v)) for v in vector]

    def slope(weights):
        _, at_weights = value_and_grad(weights)
        pairs = [(ops.cast(at_weights[i], v.dtype), v) for i, v in zip(indices, vector) if at_weights[i] is not None]
        return dot(*zip(*pairs)) if pairs else ops.zeros(())

    _, term = backend.value_and_grad(slope)(weights)
    if all(t is None for t in term):
        raise ValueError(
            f"{rule!r} needs second derivatives, and the gradients that it was given have none: the loss is "
            "piecewise linear in the weights, or `value_and_grad` cannot be differentiated again "
            "(`keras_sam.backend.value_and_grad` can). Leave `second_order` out."
        )
    return term
