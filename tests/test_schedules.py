"""Schedules of ρ: ours, and Keras's own for late-phase SAM and warm-up."""

import keras
import numpy as np
import pytest
from nets import EAGERLY
from oracle import to_numpy, values_of
from test_conformance import FIT, compiled, table

from keras_sam import SAM
from keras_sam.schedules import EveryK, LinkedToLearningRate

KERAS = keras.optimizers.schedules
COSINE = KERAS.CosineDecay(0.5, decay_steps=8)
WARM = KERAS.CosineDecay(0.0, decay_steps=8, warmup_target=0.5, warmup_steps=4)
PIECES = KERAS.PiecewiseConstantDecay([4, 8], [0.25, 0.5, 0.125])
LATE = KERAS.PiecewiseConstantDecay([5], [0.0, 0.25])
RISING = KERAS.PolynomialDecay(0.125, decay_steps=8, end_learning_rate=0.5)
WARM_UP = KERAS.CosineDecay(0.0, decay_steps=1, alpha=1.0, warmup_target=0.5, warmup_steps=4)


class Own(KERAS.LearningRateSchedule):
    """Without a config."""

    def __call__(self, step):
        return 0.1


class Nested(Own):
    def get_config(self):
        return {"initial_learning_rate": keras.saving.serialize_keras_object(COSINE)}


def test_a_schedule_without_a_config_trains_and_has_a_name():
    assert repr(SAM(Own(), m=2)) == "SAM(rho=Own, m=2)"
    x, y = table()
    own, constant = compiled(SAM(Own())), compiled(SAM(0.1))
    for model in (own, constant):
        model.fit(x, y, epochs=2, **FIT)
    for got, want in zip(values_of(own.variables), values_of(constant.variables), strict=True):
        np.testing.assert_array_equal(got, want)


def cosine(share):
    return 0.5 * (1 + np.cos(np.pi * share))


@pytest.mark.parametrize(
    ("schedule", "steps", "values"),
    [
        (EveryK(0.25, 3), range(7), [0.25, 0, 0, 0.25, 0, 0, 0.25]),
        (EveryK(0.25, 1), range(3), [0.25] * 3),
        (EveryK(LATE, 2), range(9), [0, 0, 0, 0, 0, 0, 0.25, 0, 0.25]),
        (LinkedToLearningRate(0.1, 0.3, COSINE), [0, 2, 4, 8], [0.1 + 0.2 * cosine(t / 8) for t in (0, 2, 4, 8)]),
        (LinkedToLearningRate(0.1, 0.3, WARM), [0, 2, 4, 12], [0.1, 0.2, 0.3, 0.1]),
        (LinkedToLearningRate(0.0, 0.4, PIECES), [0, 6, 12], [0.2, 0.4, 0.1]),
        (LinkedToLearningRate(0.0, 0.4, RISING), [0, 4, 8], [0.1, 0.25, 0.4]),
        (LinkedToLearningRate(0.1, 0.3, PIECES, lr_min=0.25, lr_max=0.375), [0, 6, 12], [0.1, 0.3, 0.1]),
        # No class of ours is needed for these.
        (LATE, [0, 5, 6], [0, 0, 0.25]),
        (WARM_UP, [0, 2, 4, 9], [0, 0.25, 0.5, 0.5]),
    ],
)
def test_values(schedule, steps, values):
    np.testing.assert_allclose([float(schedule(t)) for t in steps], values, rtol=1e-6, atol=1e-8)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    np.testing.assert_array_equal([float(again(t)) for t in steps], [float(schedule(t)) for t in steps])


@pytest.mark.parametrize("schedule", [EveryK(0.1, 2), LinkedToLearningRate(0.1, 0.2, COSINE), LATE], ids=repr)
def test_a_schedule_is_saved_with_the_model_and_resumes(schedule, tmp_path):
    x, y = table()
    model = compiled(SAM(schedule))
    model.fit(x, y, epochs=2, **FIT)
    model.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    for m in (model, resumed):
        m.fit(x, y, epochs=4, initial_epoch=2, **FIT)
    for got, want in zip(values_of(resumed.variables), values_of(model.variables), strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_k_alternates_sam_and_plain_steps():
    """k = 2: a step of SAM, then one of Keras, then the same again."""
    x, y = table()
    model, sam, plain = compiled(SAM(EveryK(0.1, 2))), compiled(SAM(0.1), **EAGERLY), compiled(None, **EAGERLY)
    for i in range(4):
        batch = x[i * 6 : i * 6 + 6], y[i * 6 : i * 6 + 6]
        single = plain if i % 2 else sam
        for v, other in zip(single.trainable_variables, model.trainable_variables, strict=True):
            v.assign(to_numpy(other))
        for v, other in zip(single.optimizer.variables, model.optimizer.variables, strict=True):
            v.assign(to_numpy(other))
        model.train_on_batch(*batch)
        single.train_on_batch(*batch)
        for got, want in zip(values_of(model.trainable_variables), values_of(single.trainable_variables), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EveryK(0.1, 0), "Received `k=0` for `EveryK`"),
        (lambda: EveryK(-0.1, 2), "`rho=-0.1`"),
        (lambda: LinkedToLearningRate(-1, 0.1, COSINE), "`rho_min=-1`"),
        (lambda: LinkedToLearningRate(0.1, 0.2, 0.1), "`learning_rate=0.1`; expected the optimizer's"),
        (lambda: LinkedToLearningRate(0.1, 0.2, COSINE, lr_min=0.5), "`lr_min=0.5` and `lr_max=0.5`"),
        (lambda: LinkedToLearningRate(0.1, 0.2, LATE.__class__([1], [0.0, 0.0])), "does not say what its highest"),
        (lambda: LinkedToLearningRate(0.1, 0.2, KERAS.ExponentialDecay(0.1, 10, 2.0)), "expected `lr_max=…` as well"),
        (lambda: LinkedToLearningRate(0.1, 0.2, KERAS.CosineDecayRestarts(0.1, 10, m_mul=2.0)), "expected `lr_max=…`"),
        (lambda: LinkedToLearningRate(0.1, 0.2, KERAS.CosineDecay(0.1, 10, alpha=2.0)), "expected `lr_max=…` as well"),
        (lambda: LinkedToLearningRate(0.1, 0.2, Own()), "expected `lr_max=…` as well"),
        (lambda: LinkedToLearningRate(0.1, 0.2, Nested()), "expected `lr_max=…` as well"),
        (lambda: LinkedToLearningRate(0.1, 0.2, COSINE, lr_max="high"), "Received `lr_max='high'`"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
