"""What the figures draw is what they are given, on axes that can be compared."""

import numpy as np
import pytest
from conftest import required

from keras_sam.sharpness import Density, Surface

required("matplotlib")
from keras_sam.sharpness import plots  # noqa: E402

AXIS = np.linspace(-1, 1, 5)


def bowl(steepness):
    loss = 0.1 + steepness * (AXIS[:, None] ** 2 + AXIS**2)
    return Surface(AXIS, AXIS, loss, np.full_like(loss, np.nan))


def density(high):
    grid = np.linspace(0, high, 50)
    return Density(grid, np.full(50, 1 / high), grid, np.full(50, 1 / 50))


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_landscapes_share_their_scale():
    figure = plots.landscapes({"SGD": bowl(10.0), "SAM": bowl(1.0)})
    spaces, contours = figure.axes[0:4:2], figure.axes[1:4:2]
    assert [axes.get_title() for axes in spaces] == ["SGD", "SAM"]
    for axes in spaces:
        np.testing.assert_allclose(axes.get_zlim(), np.log10([0.1, 20.1]), atol=0.2)
    filled = [axes.collections[0] for axes in contours]
    assert filled[0].norm is filled[1].norm
    np.testing.assert_allclose([filled[0].norm.vmin, filled[0].norm.vmax], [0.1, 20.1], rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_landscape_with_holes_is_drawn_by_what_is_finite(value, tmp_path):
    surface = bowl(1.0)
    surface.loss[0, 0] = value
    figure = plots.landscapes({"SGD": surface})
    figure.savefig(tmp_path / "landscape.png")
    # The other corners have the highest loss as well.
    norm = figure.axes[1].collections[0].norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], [0.1, 2.1], rtol=1e-6)


def test_a_flat_landscape_has_a_scale_all_the_same(tmp_path):
    figure = plots.landscapes({"SGD": bowl(0.0)})
    figure.savefig(tmp_path / "landscape.png")
    norm = figure.axes[1].collections[0].norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], [0.1, 0.2], rtol=1e-6)


def test_a_landscape_without_a_logarithm_is_refused():
    with pytest.raises(ValueError, match="Add a constant"):
        plots.landscapes({"SGD": bowl(0.0)._replace(loss=-np.ones((5, 5)))})


def test_the_users_own_figures_stay_as_they_are():
    import matplotlib

    def settings():
        return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}

    before = settings()
    plots.sam_step()
    assert settings() == before


def test_a_line_through_a_landscape():
    surface = Surface(AXIS, None, 1 + AXIS**2, np.full(5, np.nan))
    (axes,) = plots.landscapes({"SGD": surface}).axes
    np.testing.assert_array_equal(lines(axes)["SGD"], np.stack([AXIS, 1 + AXIS**2], -1))


def test_spectra_share_their_axes_and_say_their_eigenvalues():
    figure = plots.spectra(
        {
            "SGD": [("epoch 1", density(5.0), None), ("epoch 9", density(25.0), [25.0, 9.0, 8.0, 6.0, 5.0])],
            "SAM": [("epoch 1", density(2.0), None), ("epoch 9", density(1.0), [1.0, 0.5])],
        }
    )
    (first, second, third, fourth) = [axes.get_xlim() for axes in figure.axes]
    assert (first, third) == (second, fourth)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    texts = [axes.texts[0].get_text() for axes in figure.axes]
    assert texts[0] == "epoch 1"
    assert "= 25" in texts[2]
    assert "= 5.00" in texts[2]
    assert r"\lambda_5" not in texts[3]


def test_a_spectrum_without_a_fifth_eigenvalue_has_no_ratio():
    (axes,) = plots.spectra({"SGD": [("", density(1.0), [1.0, 0.0, 0.0, 0.0, 0.0])]}).axes
    assert r"\lambda_5" not in axes.texts[0].get_text()


def test_the_step_of_sam_is_its_formula():
    """f = 0.3 x² + 2 y² at (−2, 0.2), ρ = 0.6, lr 0.3: ε = 0.6 (−1.2, 0.8) / ‖·‖."""
    axes = plots.sam_step().axes[0]
    epsilon = 0.6 * np.array([-1.2, 0.8]) / np.hypot(1.2, 0.8)
    there = np.array([-2.0, 0.2]) + epsilon
    points = [line.get_xydata()[0] for line in axes.lines]
    np.testing.assert_allclose(points, [[-2.0, 0.2], there], rtol=1e-12)
    labels = {text.get_text(): text.xy for text in axes.texts}
    np.testing.assert_allclose(labels["SGD"], [-2 + 0.36, 0.2 - 0.24], rtol=1e-12)
    np.testing.assert_allclose(labels["SAM"], [-2 - 0.3 * 0.6 * there[0], 0.2 - 0.3 * 4 * there[1]], rtol=1e-12)


def test_curves_are_the_numbers():
    (axes,) = plots.error_by_rho({4: ([0.1, 0.2], [0.05, 0.04], [0.01, 0.01])}).axes
    np.testing.assert_allclose(lines(axes)["m = 4"], [[0.1, 5.0], [0.2, 4.0]])
    (axes,) = plots.predictive_power({"ρ = 0.1": ([1, 4], [0.3, 0.1])}).axes
    np.testing.assert_allclose(lines(axes)["ρ = 0.1"], [[1, 0.3], [4, 0.1]])
    (axes,) = plots.first_and_second_order({"first": {"perturbed_error": [0.2], "val_accuracy": [0.75]}}).axes
    assert {label: y for label, ((_, y),) in lines(axes).items()} == {
        "first: training, at w + ε̂": 20,
        "first: test, at w": 25,
    }
    for function, scale in [(plots.cosines, 1), (plots.inner_maximization, 1), (plots.accuracy_by_norm, 100)]:
        (axes,) = function({"a": [0.5, 0.25], "b": [0.0, 1.0]}).axes
        np.testing.assert_allclose(lines(axes)["a"], [[1, 0.5 * scale], [2, 0.25 * scale]])
        # In print they are told apart by their dashes.
        assert len({line.get_linestyle() for line in axes.lines}) == 2
    (axes,) = plots.sharpness_by_rho({"SAM": ([0.1, 0.2], [1.0, 3.0])}).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (axes,) = plots.improvements([("a", 0.2, 0.1), ("b", 0.1, None)]).axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[20, 1], [10, 0]])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[10, 1]])
