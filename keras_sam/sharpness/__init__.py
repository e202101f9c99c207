"""How sharp a minimum is: every analysis of the paper, for any compiled Keras model and any data."""

from keras_sam.sharpness.ascent import Sharpness, average_sharpness, sharpness
from keras_sam.sharpness.bound import pac_bayes_bound
from keras_sam.sharpness.density import Density, hessian_density
from keras_sam.sharpness.hessian import Estimate, hessian_eigenvalues, hessian_trace
from keras_sam.sharpness.landscape import Surface, filter_normalized_direction, loss_surface
from keras_sam.sharpness.score import generalization_score

__all__ = [
    "Density",
    "Estimate",
    "Sharpness",
    "Surface",
    "average_sharpness",
    "filter_normalized_direction",
    "generalization_score",
    "hessian_density",
    "hessian_eigenvalues",
    "hessian_trace",
    "loss_surface",
    "pac_bayes_bound",
    "sharpness",
]
