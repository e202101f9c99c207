"""What the train step of `fit` costs on JAX, read off the program that XLA makes of it."""

import inspect
import math
import re

_NAMES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf"= (?P<type>[^=]*?) (?P<name>{_NAMES})(?:-start)?\(")
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


def lowered(model, x, y):
    """The function that `fit` jits for a step of a compiled model, lowered; nothing is run.

    Args:
        model: A compiled and built `keras.Model`, whose variables have arrays, or shapes with a sharding, as values.
        x: Array or `jax.ShapeDtypeStruct`, the inputs of a batch.
        y: As `x`, the labels.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.make_train_function(force=True)
    step = inspect.getclosurevars(model.train_function).nonlocals["step_function"]
    groups = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
    state = tuple([v.value for v in group] for group in [*groups, model.metrics_variables])
    return step.lower(state, (x, y))


def cost(program):
    """A dict of numbers, those of one device, of a `jax.stages.Compiled`."""
    found = collectives(program.as_text())
    reduced = [size for name, size in found if name == "all-reduce"]
    return {
        "flops": program.cost_analysis()["flops"],
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        "all_reduces": len(reduced),
        "all_reduce_bytes": sum(reduced),
        "other_collectives": len(found) - len(reduced),
    }


def collectives(text):
    """Pairs of the name and the bytes of each collective in the text of an optimized program."""
    # Long tuples are numbered: /*index=5*/.
    found = _COLLECTIVE.finditer(re.sub(r"/\*.*?\*/", "", text))
    return [(match["name"], sum(map(_size, _ARRAY.findall(match["type"])))) for match in found]


def _size(array):
    kind, bits, shape = array
    bits = 8 if kind == "pred" else int(bits)
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8
