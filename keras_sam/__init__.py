"""Sharpness-Aware Minimization for Keras 3."""

from keras_sam import backend, callbacks, rules, schedules, sharpness
from keras_sam.model import SAMModel
from keras_sam.rules import ASAM, GSAM, MSAM, SAM, FriendlySAM, LookSAM, RandomPerturbation, in_ascent
from keras_sam.trainer import SAMTrainer

__version__ = "0.1.0"

__all__ = [
    "ASAM",
    "GSAM",
    "MSAM",
    "SAM",
    "FriendlySAM",
    "LookSAM",
    "RandomPerturbation",
    "SAMModel",
    "SAMTrainer",
    "backend",
    "callbacks",
    "in_ascent",
    "rules",
    "schedules",
    "sharpness",
]
