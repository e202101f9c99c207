"""Convolutions in the layout that XLA is fast at, inside of loops and conditionals on a CPU."""

import jax
from jax import lax
from jax.extend.core import Literal


def in_standard_layout(function):
    """`function`, with the convolutions that it traces in NHWC and HWIO; the numbers are the same.

    XLA brings convolutions of a program into this layout on a CPU, but overlooks those in loops and conditionals. The
    gradients of `keras.layers.Conv2D` have another one, and took twenty times as long there.

    Args:
        function: Function of structures of arrays to a structure of arrays, to be called in traced code.
    """
    if jax.default_backend() != "cpu":
        return function

    def converted(*args):
        closed, output = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(output), results)

    return converted


def _evaluate(jaxpr, consts, args):
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]  # noqa: E731
    for equation in jaxpr.eqns:
        primitive, params, inputs = equation.primitive, equation.params, [read(v) for v in equation.invars]
        if primitive is lax.conv_general_dilated_p:
            outputs = [_convolution(*inputs, params)]
        elif primitive.name in ("jit", "pjit"):
            outputs = _evaluate(params["jaxpr"].jaxpr, params["jaxpr"].consts, inputs)
        else:
            bound = primitive.get_bind_params(params)
            # JAX until 0.9.0 has functions apart.
            functions, named = bound if isinstance(bound, tuple) else ((), bound)
            outputs = primitive.bind(*functions, *inputs, **named)
            outputs = outputs if primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _convolution(x, kernel, params):
    """The layout of each operand is a tuple: the axes of batch and channels (kernels: out, in), then of space."""
    (batch, channels, *x_space), (out, into, *kernel_space), (y_batch, y_channels, *y_space) = params[
        "dimension_numbers"
    ]
    space, last = tuple(range(1, x.ndim - 1)), x.ndim - 1
    layout = lax.ConvDimensionNumbers((0, last, *space), (last, last - 1, *range(last - 1)), (0, last, *space))
    x = lax.transpose(x, (batch, *x_space, channels))
    kernel = lax.transpose(kernel, (*kernel_space, into, out))
    y = lax.conv_general_dilated_p.bind(x, kernel, **{**params, "dimension_numbers": layout})
    axes = (y_batch, *y_space, y_channels)
    return lax.transpose(y, [axes.index(axis) for axis in range(y.ndim)])
