"""Data sets and what is made of them: `load` here, batches in `pipelines`."""

from keras_sam.experiments.data.sources import load

__all__ = ["load"]
