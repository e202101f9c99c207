"""What a rule keeps between steps, in the optimizer's variables: saved, resumed and placed on devices with them."""

import contextlib

import keras
from keras import ops

from keras_sam.backend import keras_private
from keras_sam.rules.step import is_overwritten

# In the names of the optimizer's variables that are a rule's.
MARK = "_keras_sam_"


def create(model):
    """Creates the optimizer's variables and the rule's, which have to exist before training or loading begins."""
    if model.optimizer is None or not model.trainable_variables:
        return
    strategy, distribution = getattr(model, "distribute_strategy", None), keras.distribution.distribution()
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for slot in _slots(model.sam):
            if not _all_kept(model, slot):
                for variable in _with_state(model):
                    # Replicas keep the mean of what each of them found.
                    kept = model.optimizer.add_variable(
                        variable.shape,
                        dtype=variable.dtype,
                        aggregation="mean",
                        # On the devices that have the weight, or its shards.
                        layout=distribution and distribution.get_variable_layout(variable),
                        name=variable.path.replace("/", "_") + _suffix(slot),
                    )
                    # Later other weights may be trained than now, and two can have one path.
                    kept.kept_for = variable


def forget(optimizer):
    """Removes the variables of any rule: another `compile` starts afresh."""
    for variable in optimizer.variables:
        if MARK in variable.name:
            keras_private.remove_variable(optimizer, variable)


def read(model):
    """The rule's state, a tuple of lists of tensors."""

    def values(slot):
        kept = iter(_kept(model, slot))
        return [
            ops.zeros(v.shape, v.dtype) if is_overwritten(v) else ops.convert_to_tensor(next(kept).value)
            for v in model.trainable_variables
        ]

    return tuple(map(values, _slots(model.sam)))


def updates(model, state, gradient, scale=None):
    """Pairs of an optimizer's variable and its new value.

    Args:
        model: A compiled `SAMTrainer` model.
        state: The rule's new state.
        gradient: List of tensors, what the optimizer was given.
        scale: What the optimizer multiplies losses by, or `None`. If it does, a step that is not finite is skipped.
    """
    variables = [v for slot in _slots(model.sam) for v in _kept(model, slot)]
    values = [t for slot in state for t, v in zip(slot, model.trainable_variables) if not is_overwritten(v)]
    if scale is not None and values:
        found = [tensor for tensor in [*values, *gradient] if tensor is not None]
        finite = ops.all(ops.stack([ops.all(ops.isfinite(tensor)) for tensor in found]))
        values = [ops.where(finite, value, v.value) for v, value in zip(variables, values)]
    return list(zip(variables, values, strict=True))


def _slots(rule):
    return rule.slots if rule is not None and rule.perturbs else ()


def _suffix(slot):
    return MARK + slot


def _all_kept(model, slot):
    return [v for v in model.optimizer.variables if v.name.endswith(_suffix(slot))]


def _kept(model, slot):
    """The variables of a slot, one for each weight that is trained now and has a gradient."""
    kept = {id(v.kept_for): v for v in _all_kept(model, slot)}
    missing = [v.path for v in _with_state(model) if id(v) not in kept]
    if missing:
        raise ValueError(
            f"{type(model.sam).__name__} keeps something for each weight, but nothing for `{'`, `'.join(missing)}`, "
            "which was not trained when the model was compiled. Call `compile` again."
        )
    return [kept[id(v)] for v in _with_state(model)]


def _with_state(model):
    """Not float8's scales, which a file can have in another order, as Keras gives them no momentum."""
    return [v for v in model.trainable_variables if not is_overwritten(v)]
