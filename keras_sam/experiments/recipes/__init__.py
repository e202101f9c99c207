"""The tables and figures of the paper as data: one module each, with `ROWS`, a dict from names to `Row`.

`TITLE` says what it is; `SPREAD`, if the paper does not print confidence intervals; `CURVES`, which numbers of a run's
history the report draws by epoch.

Reference: [Foret et al., 2021](https://arxiv.org/abs/2010.01412), sections 3, 4, B and C.
"""

import dataclasses
import importlib

import keras

from keras_sam import SAM

NAMES = (
    *("table1", "table2", "table3", "table4", "table5", "table9", "table10", "table11", "table12"),
    *("figure1", "figure3-left", "figure3-middle", "figure3-right", "figure4", "figure5", "figure6", "figure7"),
    # The same questions at a size that one processor answers.
    *("small-table4", "small-table5", "small-table12", "small-figure4", "small-figure6"),
)
# What ρ was chosen from (section 3.1).
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# Of the training set, to choose by (section 3.1).
HELD_OUT = 0.1
# Learning rate and weight decay were chosen first, without SAM, from a grid that is not published (C.1); this is ours.
LEARNING_RATES, WEIGHT_DECAYS = (0.01, 0.02, 0.05, 0.1), (0.0002, 0.0005, 0.001)


@dataclasses.dataclass(frozen=True)
class Method:
    """How a row is trained: a column of its table.

    Args:
        rule: A rule of `keras_sam`, or `None` for plain training. Defaults to `None`.
        epochs: Float, in units of the row's epochs. Defaults to `1`.
        mixup: Float, the α of Mixup, or `None`. Defaults to `None`.
        bootstrap: Boolean, whether to train again from scratch on the labels that the first model predicts. Defaults
            to `False`.
        stop_early: Boolean, whether the weights of the epoch with the best validation accuracy count, for which a part
            of the training set is held out, in place of the last. Defaults to `False`.
    """

    rule: SAM | None = None
    epochs: float = 1
    mixup: float | None = None
    bootstrap: bool = False
    stop_early: bool = False

    @property
    def has_rho(self):
        """Whether it has a ρ that could be another: `control` has a rule and none."""
        return self.rule is not None and isinstance(self.rule.rho, float)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What all methods of a row share, and the paper's own results.

    Args:
        network: Name of a network, of `models.NETWORKS`.
        data: Name of a data set, of `data.load`.
        augmentation: Name of a pipeline, of `data.pipeline`.
        epochs: Int, passes over the training set; or `steps`, where the paper counts those.
        learning_rate: Float, the first one, of SGD with Nesterov's momentum of 0.9; it falls to 0 by half a cosine.
        weight_decay: Float; ½ weight_decay Σ w² over all weights is part of the loss, in both passes.
        methods: Dict from names to `Method`.
        published: Dict from names of methods to dicts from metrics to what the paper prints, as text: a mean, and
            after ± its spread. Defaults to `{}`.
        batch_size: Int, over all replicas. Defaults to `256`.
        steps: Int, updates, in place of `epochs`. Defaults to `None`.
        noise: Float, the share of training labels that are drawn anew. Defaults to `0.0`.
        held_out: Float, the share of the training set that is held out with clean labels; where it is not 0, the
            row's error is that on it. Defaults to `0.0`.
        num_examples: Int, how many images of what is not held out each seed draws to train on. Defaults to `None`,
            all.
        rhos: Tuple of floats, what ρ is chosen from. Defaults to `RHOS`.
        learning_rates: Tuple of floats, likewise, without SAM. Defaults to `LEARNING_RATES`.
        weight_decays: Tuple of floats, likewise, with each learning rate. Defaults to `WEIGHT_DECAYS`.
        image_size: Int, pixels, for data whose images differ in size. Defaults to `None`.
        options: Dict, further arguments of the network. Defaults to `{}`.
        fine_tune: Boolean, whether to start from pretrained weights, with a new head, and BatchNormalization's
            statistics as they are. Defaults to `False`.
        clip_norm: Float, bound of the gradient's global norm, as in the reference implementation. Defaults to `5.0`.
        label_smoothing: Float. Defaults to `0.0`.
        measures: Tuple of what `callbacks.InnerMaximization` records each epoch. Defaults to `()`.
        keep_model: Boolean, whether the trained model is kept beside the result. Defaults to `False`.
        num_seeds: Int, how many seeds the paper ran. Defaults to `5`.
    """

    network: str
    data: str
    augmentation: str
    learning_rate: float
    weight_decay: float
    methods: dict
    epochs: int | None = None
    steps: int | None = None
    published: dict = dataclasses.field(default_factory=dict)
    batch_size: int = 256
    noise: float = 0.0
    held_out: float = 0.0
    num_examples: int | None = None
    rhos: tuple = RHOS
    learning_rates: tuple = LEARNING_RATES
    weight_decays: tuple = WEIGHT_DECAYS
    image_size: int | None = None
    options: dict = dataclasses.field(default_factory=dict)
    fine_tune: bool = False
    clip_norm: float | None = 5.0
    label_smoothing: float = 0.0
    measures: tuple = ()
    keep_model: bool = False
    num_seeds: int = 5


def against_sgd(rho, m=32):
    """SAM, and plain training for as many epochs and for twice as many, of which the better counts (section 3.1).

    On one device BatchNormalization sees m examples with SAM and the whole batch without. In the paper both trained on
    replicas of m examples, which only a strategy of as many replicas has.
    """
    return {"sam": Method(SAM(rho, m=m)), "sgd": Method(), "sgd-2x": Method(epochs=2)}


def control(m):
    """What BatchNormalization in micro-batches of m does without a perturbation; a constant ρ of 0 is plain Keras."""
    return SAM(keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.0]), m=m)


def module(name):
    """The module of a table or figure, of `NAMES`."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
