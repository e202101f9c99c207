"""An ε̂ for each device of `keras.distribution.DataParallel`, where Keras sees one batch on all of them."""

import jax
import keras
from jax.sharding import PartitionSpec

from keras_sam.backend import keras_private
from keras_sam.backend.micro_batches import ascent_rows, has_mean, num_examples
from keras_sam.backend.step import sam_gradient
from keras_sam.rules.step import SHARES, STRIDE, is_overwritten


def data_axis(rule):
    """The mesh and the name of the axis along which every device has an ε̂ of its own; `None` if all share one."""
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, keras.distribution.DataParallel) or rule.m == "global":
        return None
    mesh, axis = distribution.device_mesh.backend_mesh, distribution.batch_dim_name
    return (mesh, axis) if mesh.shape[axis] > 1 else None


def sam_gradient_of_devices(mesh, axis, model, weights, batch, step, state, scale=None):
    """The mean over devices of what `sam_gradient` makes of the rows of each; they meet in one all-reduce.

    Args:
        mesh: `jax.sharding.Mesh`, each device of which has the weights.
        axis: The name of the axis of `mesh` along which the rows of `batch` are spread.
        model, weights, batch, step, state, scale: As in `sam_gradient`.

    Returns:
        `Result`, with the predictions of all rows; and those rows, a `Batch`.
    """
    rule, variables = model.sam, [variable for variable, _ in state]
    # A radius that is a float is no argument, and stays one.
    constant = {"rho": step.rho} if isinstance(step.rho, float) else {}
    traced_step = step._replace(variables=None, **dict.fromkeys(constant))
    updated = structure = is_row = None

    def on_device(weights, values, traced_step, scale, batch):
        nonlocal updated, structure, is_row
        device = jax.lax.axis_index(axis)
        own_step = traced_step._replace(variables=step.variables, share=device * SHARES, **constant)
        own_values = [_reseeded(v, value, device) for v, value in zip(variables, values)]
        result = sam_gradient(model, weights, batch, own_step, list(zip(variables, own_values)), scale)
        seen = ascent_rows(batch, rule.m, rule.ascent_fraction)
        updated = [v for v, _ in result.updates]
        predictions, structure = jax.tree.flatten(result.y_pred)
        is_row = [y.ndim > 0 and y.shape[0] == num_examples(seen) for y in predictions]
        result = result._replace(y_pred=[y for y, row in zip(predictions, is_row) if not row])
        before = {id(v): value for v, value in zip(variables, values)}
        result = _mean(result, model, before, axis, mesh.shape[axis], device)
        return result, ([y for y, row in zip(predictions, is_row) if row], seen)

    everywhere, spread = PartitionSpec(), PartitionSpec(axis)
    # Unchecked, since layers mix what differs among devices with what does not; gradients are then each device's own.
    result, (rows, seen) = jax.shard_map(
        on_device, mesh=mesh, in_specs=(everywhere,) * 4 + (spread,), out_specs=(everywhere, spread), check_vma=False
    )(weights, [value for _, value in state], traced_step, scale, batch)
    rows, others = iter(rows), iter(result.y_pred)
    y_pred = jax.tree.unflatten(structure, [next(rows) if row else next(others) for row in is_row])
    return result._replace(y_pred=y_pred, updates=list(zip(updated, result.updates))), seen


def _mean(result, model, before, axis, num_devices, device):
    """The mean of a `Result` over devices; of metrics the sum, of what is no float what it is on any device."""
    metrics = {id(v) for v in model.metrics_variables}
    added = {id(v): value - before[id(v)] for v, value in result.updates if id(v) in metrics}
    averaged = {
        id(v): value
        for v, value in result.updates
        if id(v) not in metrics and keras.backend.is_float_dtype(value.dtype)
    }
    # Together they are one collective.
    predictions = [y for y in result.y_pred if has_mean(y)]
    sums, added = jax.lax.psum((result._replace(updates=averaged, y_pred=predictions), added), axis)
    means = jax.tree.map(lambda t: t / num_devices, sums)

    def value_of(variable, value):
        if id(variable) in added:
            return before[id(variable)] + added[id(variable)]
        if id(variable) in averaged:
            return means.updates[id(variable)]
        return _reseeded(variable, value, -device) if id(variable) in before else value

    # float8's scales, which are of the largest value, as Keras has them where it accumulates gradients.
    gradient = [
        jax.lax.pmax(g, axis) if is_overwritten(v) else mean
        for g, mean, v in zip(result.gradient, means.gradient, model.trainable_variables, strict=True)
    ]
    floats = iter(means.y_pred)
    y_pred = [next(floats) if has_mean(y) else y for y in result.y_pred]
    updates = [value_of(v, value) for v, value in result.updates]
    return means._replace(gradient=gradient, updates=updates, y_pred=y_pred)


def _reseeded(variable, value, device):
    """The state of a random seed for one device, or back with `-device`, so that no two draw the same numbers."""
    if not keras_private.is_seed(variable):
        return value
    return value.at[0].add(jax.lax.convert_element_type(device * STRIDE, value.dtype))
