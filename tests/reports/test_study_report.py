"""A study in all its forms: text, Markdown, LaTeX, page and figures hold the same cells."""

import numpy as np
import pytest

from finetune_jax.reports import comparison, figures, study_report, tables
from finetune_jax.reports.study_report import Command, Picture, StudyReport
from finetune_jax.reports.tables import Table

TABLE = Table(["method", "α, %", "n"], [["a|b & <c>", "50.00 ± 1.00", 1200], ["d_e", None, 7]])


def report():
    figure = figures.draw_confusion(np.eye(2, dtype=int), ["a", "b"])
    return StudyReport(
        "A study", ["first line", TABLE], [Picture("map", "A caption", figure)], {"x.json": "{}"}
    )


def test_every_form_has_the_same_table():
    files = study_report.files(report(), command="finetune-jax x --y='<z>'", runs={"a": "runs/a/report.html"})
    assert set(files) == {"x.json", "results.txt", "results.md", "results.tex", "map.png", "report.html"}
    assert files["results.txt"] == study_report.text(report()) + "\n"
    assert files["results.txt"].splitlines()[2:] == [
        "method     α, %              n",
        "---------  ------------  -----",
        "a|b & <c>  50.00 ± 1.00  1,200",
        "d_e        –                 7",
    ]
    assert r"| a\|b & <c> | 50.00 ± 1.00 | 1,200 |" in files["results.md"]
    assert "| --- | --- | ---: |" in files["results.md"]
    assert r"a|b \& <c> & 50.00 $\pm$ 1.00 & 1,200 \\" in files["results.tex"]
    assert r"\begin{tabular}{llr}" in files["results.tex"]
    assert r"method & $\alpha$, \% & n \\" in files["results.tex"]
    assert r"d\_e & -- & 7 \\" in files["results.tex"]
    page = files["report.html"]
    assert "<td>a|b &amp; &lt;c&gt;</td>" in page
    assert '<td class="number">1,200</td>' in page
    assert '<a href="runs/a/report.html">a</a>' in page
    assert "--y=&#39;&lt;z&gt;&#39;" in page
    assert "<title>a, recognised: 1 of 1</title>" in page  # tooltips of the figure
    assert "A caption" in page


def test_a_command_can_be_copied_in_every_form():
    files = study_report.files(StudyReport("A study", ["Type this:", Command("train --x={1} --y=a_b")]))
    assert files["results.txt"] == "Type this:\n\ntrain --x={1} --y=a_b\n"
    assert "```bash\ntrain --x={1} --y=a_b\n```" in files["results.md"]
    assert "\\begin{verbatim}\ntrain --x={1} --y=a_b\n\\end{verbatim}" in files["results.tex"]
    assert "<pre>train --x={1} --y=a_b</pre>" in files["report.html"]


def test_figures_are_written_in_the_formats_that_are_asked_for():
    files = study_report.files(report(), formats=("svg", "pdf"))
    assert files["map.pdf"].startswith(b"%PDF")
    assert files["map.svg"].startswith(b"<?xml")
    assert "map.png" not in files


def entry(name, scores, **more):
    plain = {"rate": 0.01, "at_edge": False, "diverged": 0, "score": "test_accuracy", "test_images": 90}
    costs = {"epochs": [5] * len(scores), "passes": [5] * len(scores), "seconds": [2.0] * len(scores)}
    return {"name": name, "test": {"test_accuracy": scores}, **plain, **costs, **more}


def remarks(entries):
    return [row[-1] for row in comparison.methods_table(entries).rows]


def test_best_needs_several_seeds_and_equal_highest_scores_are_all_marked():
    assert remarks([entry("a", [0.5]), entry("b", [0.6])]) == ["", "highest"]
    assert remarks([entry("a", [0.6]), entry("b", [0.6])]) == ["highest", "highest"]
    assert remarks([entry("a", [0.5, 0.51]), entry("b", [0.6, 0.61])]) == ["", "best"]
    assert remarks([entry("a", [0.55, 0.65]), entry("b", [0.6, 0.61])]) == ["tie", "best"]
    assert remarks([entry("a", [0.5, 0.51]), entry("b", [0.6], diverged=1)]) == ["", "highest (1 diverged)"]


def test_a_single_seed_has_its_wilson_interval_and_the_note_says_what_a_point_is():
    entries = [entry("a", [48 / 90])]
    (row,) = comparison.methods_table(entries).rows
    assert row[2] == "53.33 [43.10, 63.29]"
    assert "1.11 points" in comparison.uncertainty_note(entries)
    assert comparison.methods_table([entry("a", [0.5, 0.7])]).rows[0][2] == "60.00 ± 14.14"


def test_epochs_with_rejected_trials_have_a_column_only_where_there_are_any():
    assert "epochs" in comparison.methods_table([entry("a", [0.5])]).columns
    rejected = comparison.methods_table([entry("a", [0.5], passes=[8])])
    assert rejected.rows[0][3] == "5 (8)"
    assert "epochs (with rejected trials)" in rejected.columns


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("test_accuracy", True),
        ("test_recall_at_4", True),
        ("test_map_at_r", False),
        ("test_balanced_accuracy", False),
    ],
)
def test_only_shares_of_images_have_a_wilson_interval(name, known):
    assert (tables.interval_of(name, 0.5, 10) is not None) == known
    assert tables.interval_of(name, 0.5, None) is None
