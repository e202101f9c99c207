"""What `keras-sam sharpness` finds out about a saved model: its numbers, and the pictures of them."""

from pathlib import Path

import keras
import numpy as np
from rich.table import Table

from keras_sam import sharpness
from keras_sam.experiments import results
from keras_sam.experiments.data import load

# For their layers, which a saved model may hold.
from keras_sam.experiments.models import frozen_statistics, shake  # noqa: F401
from keras_sam.sharpness.hessian import check_count
from keras_sam.sharpness.objective import Objective

RHOS = (0.01, 0.02, 0.05, 0.1, 0.2)
SPLITS = "train", "test"
SCALES = {"normalized": None, "pixels": (0.0, 1.0), "unit": (0.0, 255.0)}


def load_model(path):
    """A compiled model from a `.keras` file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file holds no model, or one that is not compiled.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Write one with `model.save('{path.stem}.keras')`.")
    if path.suffix != ".keras":
        raise ValueError(
            f"Received {path.name}; expected a file that ends in .keras, a whole model as `model.save` writes it. "
            "Weights alone do not say of which network they are: load them into yours and save that."
        )
    try:
        model = keras.saving.load_model(path)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"Keras cannot load {path}: {error}") from error
    if not model.compiled:
        raise ValueError(f"The model in {path} is not compiled, so that it has no loss: compile it and save it again.")
    return model


def examples(model, name, split, num_examples, scale, batch_size, **options):
    """The first examples of a data set in the form that a model wants them, a `tf.data.Dataset`.

    Args:
        model: A compiled model of images.
        name: As in `data.load`, which also takes the options.
        split: One of `SPLITS`.
        num_examples: Int.
        scale: Key of `SCALES`.
        batch_size: Int.

    Raises:
        ValueError: If the data are not the model's: their shape, or their number of classes.
    """
    loaded = load(name, **options)
    wanted, classes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    losses = [keras.losses.get(loss) for loss in keras.tree.flatten(model.loss)]
    names = [getattr(loss, "__name__", None) or type(loss).__name__ for loss in losses]
    sparse = ["sparse" in loss.lower() for loss in names]
    if (
        (np.ndim(wanted), np.size(wanted), np.ndim(classes), np.size(classes)) != (1, 4, 1, 2)
        or wanted[-1] != loaded.image_shape[-1]
        or classes[-1] != loaded.num_classes
        or "crossentropy" not in "".join(names).lower().replace("_", "")
        or len(names) != 1
    ):
        raise ValueError(
            f"`{model.name}` takes {wanted} to {classes} with the loss {names}; expected a classifier with a "
            f"categorical cross-entropy of the images of {name}, {loaded.image_shape}, to its {loaded.num_classes} "
            "classes. Name the data set that the model was trained on."
        )
    from keras_sam.experiments.data import pipelines

    if SCALES[scale]:
        loaded = loaded._replace(normalization=SCALES[scale])
    size = None if wanted[1:3] == tuple(loaded.image_shape[:2]) else wanted[1]
    options = {"image_size": size, "one_hot": not sparse[0]}
    batches = pipelines.evaluation(loaded, getattr(loaded, split), batch_size, **options)
    return batches.unbatch().take(num_examples).batch(batch_size).cache()


def run(model, data, rho, m, k, order, points, seed, verbose=1):
    """All measures of a model over data; a dict, with a `Density` and a `Surface`."""
    objective = Objective(model, data)
    check_count("k", k, objective)
    loss, error = objective.here()
    sharp = sharpness.sharpness(model, data, list(rho), m, verbose=verbose)
    eigenvalues = sharpness.hessian_eigenvalues(model, data, k, seed=seed, verbose=verbose)
    trace = sharpness.hessian_trace(model, data, seed=seed, verbose=verbose)
    order = min(order, objective.num_parameters)
    density = sharpness.hessian_density(model, data, order=order, seed=seed, verbose=verbose)
    surface = sharpness.loss_surface(model, data, num_points=points, seed=seed, verbose=verbose)
    num_examples = sum(len(x) for x, _ in data)
    weights = np.concatenate([keras.ops.convert_to_numpy(v).ravel() for v in model.trainable_variables])
    norm, delta = np.linalg.norm(weights), 0.05 / len(rho)  # the least of all is shown, so that all have to hold
    bounds = [
        sharpness.pac_bayes_bound(min(1.0, error + rise), norm, len(weights), num_examples, r, delta)
        if np.isfinite(rise) and r > 0
        else np.nan
        for r, rise in zip(rho, np.maximum(sharp.error, 0.0))
    ]
    return {
        "loss": loss,
        "error": error,
        "eigenvalues": eigenvalues.tolist(),
        "trace": trace._asdict(),
        "rho": list(rho),
        "m": m,
        "sharpness_of_loss": sharp.loss.tolist(),
        "sharpness_of_error": sharp.error.tolist(),
        "pac_bayes_bound_of_error": bounds,
        "num_examples": num_examples,
        "num_parameters": len(weights),
        "density": density,
        "surface": surface,
    }


def write(content, output, stem, dataset):
    """The numbers as JSON and three pictures, each whole or not at all; returns their paths."""
    from keras_sam.sharpness import plots

    numbers = {key: _plain(value) for key, value in content.items()}
    spectrum = [(f"{stem}, {dataset}", content["density"], content["eigenvalues"])]
    figures = [
        ("spectrum", plots.spectra({"Hessian": spectrum})),
        ("landscape", plots.landscapes({stem: content["surface"]})),
        (
            "by_rho",
            plots.sharpness_by_rho({stem: (content["rho"], content["sharpness_of_loss"])}),
        ),
    ]
    paths = [Path(output) / f"{stem}_{dataset}.json"]
    results.write_json(paths[0], {**results.provenance(), **numbers})
    for name, figure in figures:
        paths.append(Path(output) / f"{stem}_{dataset}_{name}.png")
        with results.replacing(paths[-1]) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    return paths


def table(content, title):
    """The numbers for the eye."""
    shown = Table("what", "value", title=title)
    shown.add_row("loss", f"{content['loss']:.4g}")
    shown.add_row("error rate", f"{content['error']:.2%}")
    eigenvalues = content["eigenvalues"]
    shown.add_row("λ_max of the Hessian", f"{eigenvalues[0]:.4g}")
    if len(eigenvalues) > 4 and eigenvalues[4]:
        shown.add_row("λ_max / λ_5", f"{eigenvalues[0] / eigenvalues[4]:.3g}")
    shown.add_row("trace", f"{content['trace']['value']:.4g} ± {content['trace']['standard_error']:.2g}")
    rows = zip(content["rho"], content["sharpness_of_loss"], content["sharpness_of_error"])
    for rho, loss, error in rows:
        shown.add_row(f"sharpness at ρ = {rho:g}", f"loss +{loss:.3g}, error +{100 * error:.2f} points")
    bounds = [b for b in content["pac_bayes_bound_of_error"] if np.isfinite(b)]
    if bounds:
        best = min(bounds)
        shown.add_row("PAC-Bayes bound of the error", f"{best:.3g}{' (vacuous: above 1)' if best > 1 else ''}")
    return shown


def _plain(value):
    if hasattr(value, "_asdict"):
        return {key: _plain(v) for key, v in value._asdict().items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
