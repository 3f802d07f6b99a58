"""The report of networks between two others: its numbers, and the share that was chosen."""

import re

from finetune_jax.reports import interpolation, study_report
from finetune_jax.reports.tables import Table

CURVE = {
    "alphas": [0.0, 1.0, 0.5],
    "scores": {"validation": [0.25, 0.5, 0.75], "test": [0.2, 0.6, 0.7]},
    "chosen_alpha": 0.5,
}


def test_the_table_marks_the_share_that_validation_chose():
    report = interpolation.report(CURVE)
    table = report.parts[0]
    assert isinstance(table, Table)
    assert table.columns == ["alpha", "validation, %", "test, %"]
    assert table.rows == [["0", "25.0", "20.0"], ["1", "50.0", "60.0"], ["0.5 *", "75.0", "70.0"]]


def test_the_curve_goes_from_the_start_to_the_run():
    axis = interpolation.report(CURVE).pictures[0].figure.axes[0]
    validation, test, chosen = axis.get_lines()
    assert validation.get_xydata().tolist() == [[0.0, 25.0], [0.5, 75.0], [1.0, 50.0]]
    assert test.get_ydata().tolist() == [20.0, 70.0, 60.0]
    assert list(chosen.get_xdata()) == [0.5, 0.5]


def test_scores_that_are_no_shares_stay_as_they_are():
    report = interpolation.report({**CURVE, "score": "r2"})
    assert report.parts[0].columns == ["alpha", "validation", "test"]
    assert report.parts[0].rows[0] == ["0", "0.2500", "0.2000"]
    axis = report.pictures[0].figure.axes[0]
    assert axis.get_ylabel() == "r2"
    assert axis.get_lines()[1].get_ydata().tolist() == [0.2, 0.7, 0.6]


def test_the_page_is_among_the_files():
    files = study_report.files(interpolation.report(CURVE), command="finetune-jax interpolate --run=r")
    assert {"report.html", "interpolation.json", "interpolation.png", "interpolation.md"} <= set(files)
    assert "finetune-jax interpolate --run=r" in re.sub("<[^>]*>", "", str(files["report.html"]))
