"""The examples run, each on its own backend."""

import json
import pathlib
import runpy

import pytest
from conftest import BACKEND, required

import keras_sam

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def test_the_custom_loop_learns_and_follows_its_rule():
    if BACKEND == "jax":
        required("optax")
    main = runpy.run_path(str(EXAMPLES / f"custom_loop_{BACKEND}.py"))["main"]
    assert main(epochs=3) > 0.85  # 0.90 to 0.93 was seen
    # So far away that no gradient tells anything about the weights: a loop that leaves ε̂ out would learn all the same.
    assert main(epochs=3, rule=keras_sam.SAM(rho=1e4)) < 0.6


@pytest.mark.skipif(BACKEND != "tensorflow", reason="bound to no backend, and slow to compile on JAX")
def test_keras_tuner_chooses_rho(tmp_path, monkeypatch):
    required("keras_tuner")
    import tensorflow as tf

    from keras_sam.experiments.data import digits

    load = digits.load
    monkeypatch.setattr(digits, "load", lambda noise: [digits.Split(s.x[:128], s.y[:128]) for s in load(noise)])
    main = runpy.run_path(str(EXAMPLES / "tune_rho.py"))["main"]
    # For the few steps of each trial no graph is worth its tracing.
    tf.config.run_functions_eagerly(True)
    try:
        rho, accuracy = main(["--epochs", "2", "--folder", str(tmp_path)])
    finally:
        tf.config.run_functions_eagerly(False)
    trials = [json.loads(path.read_text()) for path in tmp_path.rglob("trial.json")]
    scores = {t["hyperparameters"]["values"]["rho"]: t["score"] for t in trials}
    assert set(scores) == {0.05, 0.1, 0.2, 0.5}
    assert scores[rho] == max(scores.values())
    assert 0 <= accuracy <= 1
