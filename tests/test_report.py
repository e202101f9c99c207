"""The report, on results that are made up."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from keras_sam.experiments import comparison, grid, recipes, report
from keras_sam.experiments.runner import Run, settings_of

ROW = "wrn-28-10/autoaugment/fashion_mnist"


def write(output, method, errors, table="table5", row=ROW, **options):
    for seed, error in enumerate(errors):
        run = Run(table=table, row=row, method=method, seed=seed, **options)
        path = run.path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings_of(run), "result": {"test_error": error}}))


def quiet():
    return Console(quiet=True)


def test_the_better_of_one_and_two_times_the_epochs_stands_for_sgd(tmp_path):
    write(tmp_path, "sam", [0.04, 0.05])
    write(tmp_path, "sgd", [0.06, 0.08])
    write(tmp_path, "sgd-2x", [0.05, 0.07])
    table = comparison.lines("table5", comparison.read(tmp_path))
    assert [line for line in table if line[0] == ROW] == [
        (ROW, "sam", "test_error", [0.04, 0.05], 2, "3.61 ± 0.06"),
        (ROW, "sgd-2x", "test_error", [0.05, 0.07], 2, "3.86 ± 0.14"),
    ]
    # Rows without results are there, with the paper's numbers.
    assert len(table) == 16


def test_what_tries_other_values_stands_for_no_recipe(tmp_path):
    write(tmp_path, "sgd", [0.06, 0.08])
    write(tmp_path, "sgd-2x", [0.05, 0.07])
    write(tmp_path, "sgd-2x", [0.01], learning_rate=0.02)
    lines = comparison.lines("table5", comparison.read(tmp_path))
    assert (ROW, "sgd-2x", "test_error", [0.05, 0.07], 2, "3.86 ± 0.14") in lines
    assert (ROW, "sgd-2x (learning_rate=0.02)", "test_error", [0.01], 1, "") in lines


def test_figure_1_has_the_papers_rho_where_a_table_has_the_best_one_too():
    published = recipes.module("table11").ROWS["efficientnet-b7/cifar100"].published
    sam, sgd = (report.number(published[name]["test_error"]) for name in ("sam", "sgd"))
    assert ("table11/efficientnet-b7/cifar100", 1 - sam / sgd, None) in report.improvements("table11", {})


def test_accuracies_are_better_when_larger(tmp_path):
    for alpha, accuracy in [(1, 0.7), (8, 0.8), (16, 0.6)]:
        run = Run(table="table4", row="noise-40", method=f"mixup-{alpha}")
        path = run.path(tmp_path)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"settings": settings_of(run), "result": {"test_accuracy": accuracy}}))
    lines = comparison.lines("table4", comparison.read(tmp_path))
    assert ("noise-40", "mixup-8", "test_accuracy", [0.8], 1, "90.0") in lines


def test_smoke_runs_are_no_results_and_other_values_are_named(tmp_path):
    write(tmp_path, "sam", [0.5], smoke=True)
    write(tmp_path, "sam", [0.3], rho=0.1)
    lines = [line for line in comparison.lines("table5", comparison.read(tmp_path)) if line[0] == ROW]
    assert lines == [
        (ROW, "sam", "test_error", [], 0, "3.61 ± 0.06"),
        (ROW, "sgd", "test_error", [], 0, "3.86 ± 0.14"),
        (ROW, "sam (rho=0.1)", "test_error", [0.3], 1, ""),
    ]


def write_tuning(output, errors):
    for rho, by_seed in errors.items():
        for seed, error in enumerate(by_seed, grid.TUNING_SEED):
            run = Run(table="table5", row=ROW, method="sam", seed=seed, rho=rho, held_out=recipes.HELD_OUT)
            path = run.path(output)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"settings": settings_of(run), "result": {"validation_error": error}}))


def test_a_rho_that_was_chosen_stands_beside_the_paper_s_number_whatever_others_find_on_the_test_set(tmp_path):
    rhos = recipes.module("table5").ROWS[ROW].rhos
    write_tuning(tmp_path, {rho: [0.2, 0.3] if rho == 0.1 else [0.3, 0.4] for rho in rhos})
    write(tmp_path, "sam", [0.04, 0.06], rho=0.1)
    write(tmp_path, "sam", [0.03, 0.05], rho=0.2)
    write(tmp_path, "sam", [0.01])
    write(tmp_path, "sgd", [0.1, 0.1])
    chosen = comparison.chosen("table5", tmp_path)
    assert chosen == {(ROW, "sam"): "sam (rho=0.1)"}
    found = comparison.read(tmp_path)
    of_sam = [
        line for line in comparison.lines("table5", found, chosen) if line[0] == ROW and "held_out" not in line[1]
    ]
    assert sorted(of_sam) == [
        (ROW, "sam", "test_error", [0.01], 1, ""),
        (ROW, "sam (rho=0.1)", "test_error", [0.04, 0.06], 2, "3.61 ± 0.06"),
        (ROW, "sam (rho=0.2)", "test_error", [0.03, 0.05], 2, ""),
        (ROW, "sgd", "test_error", [0.1, 0.1], 2, "3.86 ± 0.14"),
    ]
    points = {name: mine for name, _, mine in report.improvements("table5", found, chosen)}
    assert points[f"table5/{ROW}"] == pytest.approx(0.5)
    report.write(tmp_path, quiet())
    assert "| sam (rho=0.1) | test error (%) | 5.00 ± 12.71 | 2 | 3.61 ± 0.06 |" in (tmp_path / "report.md").read_text()


def test_a_tuning_that_has_not_ended_chooses_nothing(tmp_path):
    first, *others = recipes.module("table5").ROWS[ROW].rhos
    write_tuning(tmp_path, {first: [0.2, 0.3], **{rho: [0.3] for rho in others}})
    assert comparison.chosen("table5", tmp_path) == {}


def test_differences_are_paired_by_seed(tmp_path):
    write(tmp_path, "sam", [0.1, 0.2, 0.4, 0.7], rho=0.1)
    write(tmp_path, "sgd", [0.2, 0.5, 0.9])
    first, second = (tmp_path / "table5" / ROW / name for name in ("sam/rho=0.1", "sgd"))
    (row,), seeds = comparison.paired(first, second)
    assert seeds == [0, 1, 2]
    metric, *values = row
    assert metric == "test_error"
    np.testing.assert_allclose(values, [[0.1, 0.2, 0.4], [0.2, 0.5, 0.9], [-0.1, -0.3, -0.5]])
    # Student's t of -10, -30, -50 for 2 degrees of freedom: 4.3027 · 20 / √3.
    assert report.text(values[-1], metric, None) == "-30.00 ± 49.68"


def test_folders_without_a_seed_in_common(tmp_path):
    write(tmp_path, "sam", [0.1])
    with pytest.raises(ValueError, match=r"seeds \[0\] and .*none with \[\]; expected .*a seed in common"):
        comparison.paired(tmp_path / "table5" / ROW / "sam", tmp_path / "none")


def test_mean_and_spread():
    # Student's t for 2 degrees of freedom at 97.5 % is 4.303; the standard deviation of 1, 2, 3 is 1.
    assert report.text([0.01, 0.02, 0.03], "test_error", "95 % confidence interval") == "2.00 ± 2.48"
    assert report.text([0.01, 0.02, 0.03], "test_error", "standard deviation") == "2.00 ± 1.00"
    assert report.text([0.5], "cosine", "standard deviation") == "0.50"
    assert report.text([], "cosine", "standard deviation") == "—"
    # Of a file that says null, since the run diverged.
    assert report.text([None], "sharpness_of_loss", None) == "nan"


def test_markdown_and_picture(tmp_path):
    write(tmp_path, "sam", [0.03])
    write(tmp_path, "sgd", [0.04])
    path = report.write(tmp_path, quiet())
    text = path.read_text()
    assert f"| {ROW} | sam | test error (%) | 3.00 | 1 | 3.61 ± 0.06 |" in text
    assert "## table5: SVHN and Fashion-MNIST" in text
    assert "table4" not in text
    points = {name: (paper, mine) for name, paper, mine in report.improvements("table5", comparison.read(tmp_path))}
    paper, mine = points[f"table5/{ROW}"]
    assert paper == pytest.approx(1 - 3.61 / 3.86)
    assert mine == pytest.approx(0.25)
    assert points["table5/shake-shake/autoaugment/svhn"] == (pytest.approx(1 - 1.07 / 1.03), None)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.md", "report.png", "table5"]


def test_tables_without_results_are_left_out_unless_asked_for(tmp_path):
    report.write(tmp_path, quiet())
    assert "##" not in (tmp_path / "report.md").read_text()
    report.write(tmp_path, quiet(), ["table2"])
    text = (tmp_path / "report.md").read_text()
    assert text.count("| resnet-") == 9 * 4
    assert "| resnet-152/400 | sgd | top-5 error (%) | — |  | 5.84 ± 0.07 |" in text


def test_a_grid_of_one_table_leaves_the_others_in_the_report(tmp_path):
    write(tmp_path, "sam", [0.03])
    write(tmp_path, "sgd", [0.04], table="table1", row="wrn-28-10/basic/cifar10")
    screen = Console(record=True, width=200, quiet=False, file=io.StringIO())
    report.write(tmp_path, screen, ["table1"])
    text = (tmp_path / "report.md").read_text()
    assert "| wrn-28-10/basic/cifar10 | sgd | test error (%) | 4.00 |" in text
    assert f"| {ROW} | sam | test error (%) | 3.00 |" in text
    printed = screen.export_text()
    assert "table1" in printed
    assert "table5" not in printed


def test_every_table_can_be_shown(tmp_path):
    report.write(tmp_path, quiet(), recipes.NAMES)
    text = (tmp_path / "report.md").read_text()
    assert all(f"## {name}: " in text for name in recipes.NAMES)


def test_the_paper_s_numbers():
    assert report.number("2.1 ± <0.1") == 2.1
    assert report.number("20.4 ± <0.0") == 20.4
    assert np.isnan(report.number("—"))


def test_curves_are_means_over_seeds_in_bands_of_their_intervals():
    histories = {
        ("figure7", "wrn-28-10/cifar10", "steps-1"): {
            0: {"sharpness_of_error": [0.01, 0.02, 0.05]},
            1: {"sharpness_of_error": [0.03, 0.02, 0.01]},
        },
        ("figure7", "wrn-28-10/cifar10", "steps-5"): {0: {"sharpness_of_error": [0.1, 0.2]}},
        # Trained to choose a ρ by.
        ("figure7", "wrn-28-10/cifar10", "sam (rho=0.1,held_out=0.1)"): {100: {"sharpness_of_error": [0.5]}},
        # The recipe of table 1 asks for no curve.
        ("table1", "wrn-28-10/basic/cifar10", "sam"): {0: {"loss": [1.0]}},
    }
    figures = report.curves("figure7", histories)
    assert list(figures) == ["figure7-wrn-28-10-cifar10-sharpness_of_error"]
    (axes,) = figures["figure7-wrn-28-10-cifar10-sharpness_of_error"].axes
    one, five = axes.get_lines()
    assert [one.get_label(), five.get_label()] == ["steps-1", "steps-5"]
    np.testing.assert_allclose(one.get_xydata(), [[1, 2], [2, 2], [3, 3]])
    np.testing.assert_allclose(five.get_xydata(), [[1, 10], [2, 20]])
    # Student's t for 1 degree of freedom at 97.5 % is 12.706, the standard error of 1 and 3 is 1, of 5 and 1 it is 2.
    band = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [3 - 2 * 12.7062, 3 + 2 * 12.7062], rtol=1e-5)
    assert axes.get_ylabel() == "sharpness of the error (points)"
    assert report.curves("table1", histories) == {}


def test_curves_have_gaps_where_a_run_diverged():
    row, metric = ("figure7", "wrn-28-10/cifar10"), "sharpness_of_error"
    histories = {
        # JSON has null for NaN, and `TerminateOnNaN` ends a run early.
        (*row, "steps-1"): {0: {metric: [0.01, 0.02, 0.03, 0.04]}, 1: {metric: [0.03, None, 0.05]}},
        (*row, "steps-2"): {0: {metric: [None]}},
        # Trained when the recipe did not measure that yet.
        (*row, "steps-3"): {0: {"loss": [1.0, 0.5]}},
        ("figure7", "wrn-28-10/cifar100", "steps-1"): {0: {}},
    }
    figures = report.curves("figure7", histories)
    assert list(figures) == ["figure7-wrn-28-10-cifar10-sharpness_of_error"]
    (figure,) = figures.values()
    figure.savefig(io.BytesIO(), format="png")
    one, two = figure.axes[0].get_lines()
    np.testing.assert_allclose(one.get_xydata(), [[1, 2], [2, np.nan], [3, 4], [4, np.nan]])
    np.testing.assert_allclose(two.get_xydata(), [[1, np.nan]])
    assert [one.get_label(), two.get_label()] == ["steps-1", "steps-2"]


def test_a_seed_without_a_metric_makes_a_gap_of_all_epochs():
    row, metric = ("figure7", "wrn-28-10/cifar10"), "sharpness_of_error"
    (figure,) = report.curves("figure7", {(*row, "steps-1"): {0: {metric: [0.1, 0.2]}, 1: {}}}).values()
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[1, np.nan], [2, np.nan]])


def test_a_figure_that_fails_takes_no_table_with_it(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no figure")

    write(tmp_path, "sam", [0.03])
    monkeypatch.setattr(report, "curves", fail)
    with pytest.raises(RuntimeError, match="no figure"):
        report.write(tmp_path, quiet())
    assert f"| {ROW} | sam | test error (%) | 3.00 |" in (tmp_path / "report.md").read_text()
