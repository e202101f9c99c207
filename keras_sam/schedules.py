"""Schedules of ρ that `keras.optimizers.schedules` does not have."""

import numbers

import keras
from keras import ops

from keras_sam.rules import checks


@keras.saving.register_keras_serializable("keras_sam")
class EveryK(checks.Schedule):
    """SAM every k-th step, plain Keras in between.

    ```
    rho(t) = rho where t is a multiple of k, else 0
    ```

    A step costs 1 + 1/k plain ones on average.

    Args:
        rho: Float ≥ 0, or a `LearningRateSchedule` of it; often larger than for SAM in every step.
        k: Integer ≥ 1.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> rho = keras_sam.schedules.EveryK(0.05, k=5)
    >>> [float(rho(step)) for step in (0, 1, 4, 5)]
    [0.05000000074505806, 0.0, 0.0, 0.05000000074505806]

    Reference: [Liu et al., 2022](https://arxiv.org/abs/2203.02714), "SAM-k".
    """

    def __init__(self, rho, k):
        self.rho = checks.check_rho(rho)
        self.k = checks.check_k(k, "EveryK")

    def __call__(self, step):
        rho = self.rho(step) if isinstance(self.rho, checks.Schedule) else self.rho
        step = ops.convert_to_tensor(step)
        return ops.where(ops.equal(ops.mod(step, self.k), 0), ops.cast(rho, "float32"), 0.0)

    def get_config(self):
        return {"rho": checks.serialized(self.rho), "k": self.k}


@keras.saving.register_keras_serializable("keras_sam")
class LinkedToLearningRate(checks.Schedule):
    """ρ goes where the learning rate goes, from `rho_max` at its highest to `rho_min` at its lowest.

    ```
    rho(t) = rho_min + (rho_max − rho_min) * (lr(t) − lr_min) / (lr_max − lr_min),    within [rho_min, rho_max]
    ```

    Args:
        rho_min: Float ≥ 0.
        rho_max: Float ≥ 0, usually the larger one.
        learning_rate: The optimizer's `keras.optimizers.schedules.LearningRateSchedule`. With
            `gradient_accumulation_steps`, where Keras's learning rate counts batches and ρ updates, one of updates.
        lr_min: Float, the lowest learning rate. Defaults to `0.0`.
        lr_max: Float, the highest learning rate. Defaults to `None`: the largest of `warmup_target`,
            `initial_learning_rate`, `end_learning_rate` and `values` of the schedule. One that grows by a factor, or
            has none of these, needs it.

    Raises:
        ValueError: If an argument is none of these, or if the schedule does not say what its highest value is.

    Example:

    >>> learning_rate = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=100)
    >>> rho = keras_sam.schedules.LinkedToLearningRate(0.01, 0.05, learning_rate)
    >>> [round(float(rho(step)), 3) for step in (0, 50, 100)]
    [0.05, 0.03, 0.01]

    Reference: [Zhuang et al., 2022](https://arxiv.org/abs/2203.08065), section 4.
    """

    def __init__(self, rho_min, rho_max, learning_rate, lr_min=0.0, lr_max=None):
        self.rho_min = checks.check_not_negative(rho_min, "rho_min", "ρ at the lowest learning rate")
        self.rho_max = checks.check_not_negative(rho_max, "rho_max", "ρ at the highest learning rate")
        if isinstance(learning_rate, dict):
            learning_rate = keras.saving.deserialize_keras_object(learning_rate)
        if not isinstance(learning_rate, checks.Schedule):
            raise ValueError(
                f"Received `learning_rate={learning_rate!r}`; expected the optimizer's "
                "`keras.optimizers.schedules.LearningRateSchedule`. With a constant learning rate ρ is constant too."
            )
        self.learning_rate = learning_rate
        self.lr_min = checks.check_not_negative(lr_min, "lr_min", "the lowest learning rate")
        highest = _highest(learning_rate) if lr_max is None else lr_max
        self.lr_max = checks.check_not_negative(highest, "lr_max", "the highest learning rate")
        if not self.lr_max > self.lr_min:
            raise ValueError(
                f"Received `lr_min={self.lr_min}` and `lr_max={self.lr_max}` (of `learning_rate={learning_rate!r}`); "
                "expected the lowest and the highest value of the schedule, `lr_min` < `lr_max`."
            )

    def __call__(self, step):
        share = (ops.cast(self.learning_rate(step), "float32") - self.lr_min) / (self.lr_max - self.lr_min)
        return self.rho_min + (self.rho_max - self.rho_min) * ops.clip(share, 0.0, 1.0)

    def get_config(self):
        return {
            "rho_min": self.rho_min,
            "rho_max": self.rho_max,
            "learning_rate": checks.serialized(self.learning_rate),
            "lr_min": self.lr_min,
            "lr_max": self.lr_max,
        }


def _highest(schedule):
    """The highest learning rate, which the configs of Keras's schedules tell unless they grow."""
    try:
        config = schedule.get_config()
    except NotImplementedError:  # a schedule of one's own need not have one
        config = {}
    names = "warmup_target", "initial_learning_rate", "end_learning_rate"
    values = [config.get(name) for name in names] + list(config.get("values") or [])
    grows = any(config.get(name, 0) > 1 for name in ("alpha", "m_mul"))
    if isinstance(schedule, keras.optimizers.schedules.ExponentialDecay):
        grows = schedule.decay_rate > 1
    highest = max((v for v in values if isinstance(v, numbers.Real)), default=0)
    if grows or not highest:
        raise ValueError(
            f"`learning_rate={schedule!r}` does not say what its highest value is; expected `lr_max=…` as well."
        )
    return highest
