"""Every private name of Keras that this library uses, in one place, each with the reason.

`tests/test_keras_private.py` fails with the name when a release of Keras renames one.
"""

import keras
from keras.src.backend import compute_output_spec
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.models.functional import Functional
from keras.src.models.model import functional_init_arguments
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.utils.rng_utils import get_random_seed as random_seed

__all__ = [
    "ATTRIBUTES",
    "IMPORTS",
    "METHODS",
    "OPTIMIZER_ATTRIBUTES",
    "TENSORFLOW_METHODS",
    "Functional",
    "Trainer",
    "batches",
    "build_from_shapes",
    "call_for_training",
    "check_momentum",
    "functional_init_arguments",
    "get_data_adapter",
    "get_keras_mask",
    "is_built",
    "is_seed",
    "loss_trackers",
    "masked_alike",
    "momentum",
    "portable",
    "random_seed",
    "rematerialized",
    "remove_variable",
    "resume_at",
    "set_keras_mask",
    "synchronized_variables",
    "torch_wrappers",
    "total_loss",
    "track_loss",
    "unscale_loss_for_distribution",
]

IMPORTS = {
    "keras.src.backend.compute_output_spec": "builds a model, whatever it returns, from the shapes of a batch",
    "keras.src.backend.common.masking.get_keras_mask": "metrics leave out what a layer has masked",
    "keras.src.backend.common.masking.set_keras_mask": "which predictions that were cut or detached have to say too",
    "keras.src.losses.loss.unscale_loss_for_distribution": "a loss is divided by the number of replicas; logs are not",
    "keras.src.models.functional.Functional": "what `keras.Model(inputs, outputs)` is an instance of",
    "keras.src.models.model.functional_init_arguments": "Keras's own test for that call",
    "keras.src.trainers.data_adapters.get_data_adapter": "reads all that `evaluate` takes, on every backend",
    "keras.src.utils.rng_utils.get_random_seed": "several hosts have to agree on the seed",
}
# The modules whose classes `keras.optimizers` gives on torch, and which Keras names in the files of such models.
TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"
ATTRIBUTES = {
    "_call_has_training_arg": "a model whose `call` has no `training` argument is called without, as Keras does",
    "_compile_loss": "the logs of single outputs' losses are its metrics",
    "_compute_loss": "calls `compute_loss` of user classes written before it had a `training` argument",
    "_loss_tracker": "the log `loss` is this metric's, which a train step has to update",
    "_flatten_layers": "finds layers at any depth that need care, or are not built",
    "_initial_epoch": "where `fit` begins after a callback has read a backup",
    "_remat_mode": "a layer under `keras.RematScope` recomputes its forward pass, on TensorFlow with other weights",
}
# What is overridden on every backend.
METHODS = {
    "_flatten_metrics_in_order": "sorts `sharpness` into the middle of what `train_on_batch` returns as a list",
}
# What the TensorFlow backend overrides; Keras's other trainers have no such method.
TENSORFLOW_METHODS = {
    "_maybe_symbolic_build": "averages the first batch over replicas, which fails where their shares or hosts differ",
}

OPTIMIZER_ATTRIBUTES = {
    "_get_variable_index": "an optimizer may have been built with more variables than are trained now",
    "_momentums": "the average of gradients of Adam and Lion, along which MSAM perturbs",
    "_untrack_variable": "an optimizer that is compiled again gives up the variables of the rule before",
}


class Trainer:
    """Mixin of `SAMTrainer` on every backend."""

    def _flatten_metrics_in_order(self, logs):
        """`sharpness` last, so that what plain Keras gives keeps its place."""
        metric = self._sharpness.metric
        if metric is None or metric.name not in logs:
            return super()._flatten_metrics_in_order(logs)
        others = super()._flatten_metrics_in_order({k: v for k, v in logs.items() if k != metric.name})
        return [*(others if isinstance(others, list) else [others]), logs[metric.name]]


def is_seed(variable):
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return variable.name == "seed_generator_state"


def is_built(model):
    """Whether every layer has its variables; `fit` on one device builds a model in its first forward pass."""
    return all(layer.built for layer in model._flatten_layers())


def build_from_shapes(model, x):
    """Creates the variables of a model, whatever it returns, without a value of the batch `x`."""

    def symbolic(tensor):
        if tensor is None:
            return None
        return keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))

    compute_output_spec(model, keras.tree.map_structure(symbolic, x))


def call_for_training(model, x):
    return model(x, training=True) if model._call_has_training_arg else model(x)


def total_loss(model, x, y, y_pred, sample_weight, training=True):
    """Compiled losses, regularizers and `add_loss` together."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)


def batches(data, batch_size):
    """The batches of whatever `evaluate` takes, `(x, y, sample_weight)` of NumPy arrays; arrays are a tuple of them."""
    arrays = data if isinstance(data, (tuple, list)) else (data,)
    for batch in get_data_adapter(*arrays, batch_size=batch_size).get_numpy_iterator():
        yield keras.utils.unpack_x_y_sample_weight(batch)


def resume_at(model, epoch):
    model._initial_epoch = epoch


def track_loss(model, loss, num_examples):
    model._loss_tracker.update_state(loss, sample_weight=num_examples)


def loss_trackers(model):
    """The variables of the metrics that log the losses of single outputs."""
    metrics = model._compile_loss.metrics if model._compile_loss is not None else []
    return [v for metric in metrics for v in metric.variables]


def synchronized_variables(model):
    """The state of the layers that all-reduce in their forward pass, which no replica may therefore skip."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "synchronized", False)]
    return [v for layer in layers for v in layer.non_trainable_variables]


def rematerialized(model):
    """The layers whose forward pass runs a second time during the backward pass."""
    return [layer for layer in model._flatten_layers() if layer._remat_mode is not None]


def torch_wrappers(model):
    """The layers of torch modules, which keep parameters of their own beside Keras's variables."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.TorchModuleWrapper)]


def masked_alike(function, y_pred):
    """`function(y_pred)`, and of what layers have masked of those predictions the same, which metrics leave out."""
    mask, y_pred = get_keras_mask(y_pred), function(y_pred)
    if mask is not None:
        set_keras_mask(y_pred, function(mask))
    return y_pred


def portable(config):
    """A serialized config that every backend can read: on torch Keras writes down optimizers that need torch."""
    if isinstance(config, (list, tuple)):
        return [portable(c) for c in config]
    if not isinstance(config, dict):
        return config
    config = {key: portable(value) for key, value in config.items()}
    if str(config.get("module")).startswith(TORCH_OPTIMIZERS):
        config.update(module="keras.optimizers", registered_name=None)
    return config


def check_momentum(optimizer):
    """Raise a `ValueError` for an optimizer without an average of gradients."""
    optimizer = _inner(optimizer)
    if isinstance(optimizer, keras.optimizers.SGD):
        if optimizer.momentum:
            return
        found = "SGD without momentum"
    elif isinstance(optimizer, (keras.optimizers.Adam, keras.optimizers.Lion)):
        return
    else:
        found = type(optimizer).__name__
    raise ValueError(
        f"MSAM perturbs along the optimizer's momentum. Received {found}; expected one of "
        "`keras.optimizers.SGD(momentum=…)` with a momentum above 0, `Adam`, `AdamW` and `Lion`."
    )


def momentum(optimizer, variables):
    """The averages of gradients, in their direction, of an optimizer that `check_momentum` accepts: a list, one for
    each of `variables`, which may be fewer than it was built with; `None` for weights that it overwrites."""
    optimizer = _inner(optimizer)
    is_sgd = isinstance(optimizer, keras.optimizers.SGD)
    averages = optimizer.momentums if is_sgd else optimizer._momentums
    try:
        averages = [averages[optimizer._get_variable_index(v)] for v in variables]
    except KeyError as error:
        raise ValueError(
            f"The optimizer keeps no momentum for one of the {len(variables)} weights that are trained now: it was not "
            "trained when the optimizer was built. Call `compile` again, with a new optimizer."
        ) from error
    # SGD's is μm − lr·g.
    return [a if a is None else -a.value if is_sgd else a.value for a in averages]


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def remove_variable(optimizer, variable):
    optimizer._untrack_variable(variable)
