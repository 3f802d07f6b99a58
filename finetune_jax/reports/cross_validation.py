"""Report of a cross-validation."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.algorithms.metrics import mean_and_spread
from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, csv_text, is_share, json_text, spoken, with_spread

OUT_OF_FOLD = "out_of_fold.csv"
_ALSO = ("test_balanced_accuracy", "test_macro_f1", "test_mae", "test_rmse")
"""Scores that stand beside that by which runs are compared."""


def report(result: Mapping[str, Any]) -> StudyReport:
    """The table of folds, mean and spread, and the predictions of every image by the run that had not seen it.

    Args:
        result: of ``studies.cross_validation.run``.
    """
    rows = result["out_of_fold"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data: dict[str, str | bytes] = {
        "results.json": json_text({name: value for name, value in result.items() if name != "out_of_fold"})
    }
    if rows:
        data[OUT_OF_FOLD] = csv_text([columns, *[[row.get(name, "") for name in columns] for row in rows]])
    score = result["score"]
    scores = [fold["test"][score] for fold in result["folds"]]
    sentence = (
        f"{spoken(score)}: {_spread(score, scores)}{' %' * is_share(score)} (mean ± standard deviation of "
        f"{len(scores)} folds, "
        f"{len(rows) or sum(fold['images']['test'] for fold in result['folds']):,} images)"
    )
    if rows:
        sentence += f". {OUT_OF_FOLD} has every image as labelled by the run that had not seen it."
    return StudyReport(
        title=f"Cross-validation of {result['dataset']}",
        parts=[folds_table(result), sentence],
        pictures=[_picture(result)],
        data=data,
    )


def folds_table(result: Mapping[str, Any]) -> Table:
    """One row per fold; the last one is the mean ± standard deviation."""
    score = result["score"]
    names = [score, *[name for name in _ALSO if name in result["folds"][0]["test"] and name != score]]
    rows: list[list[Any]] = [
        [
            str(fold["fold"]),
            *[fold["images"].get(split, 0) for split in ("train", "validation", "test")],
            *[_number(name, fold["test"][name]) for name in names],
            fold["best_epoch"],
            f"{fold['seconds']:.0f}",
        ]
        for fold in result["folds"]
    ]
    spread = [_spread(name, [fold["test"][name] for fold in result["folds"]]) for name in names]
    seconds = mean_and_spread([fold["seconds"] for fold in result["folds"]])[0]
    rows.append(["mean ± deviation", None, None, None, *spread, None, f"{seconds:.0f}"])
    columns = [
        "fold",
        "train",
        "validation",
        "test",
        *[spoken(name) + ", %" * is_share(name) for name in names],
    ]
    return Table([*columns, "best epoch", "seconds"], rows)


def _number(name: str, value: float) -> str:
    return f"{100 * value:.2f}" if is_share(name) else f"{value:.4f}"


def _spread(name: str, values: Sequence[float]) -> str:
    """Mean ± deviation, of shares in percent."""
    if is_share(name):
        return with_spread(values)
    mean, deviation = mean_and_spread(values)
    return f"{mean:.4f} ± {deviation:.4f}"


def _picture(result: Mapping[str, Any]) -> Picture:
    score = result["score"]
    factor, unit = (100, "%") if is_share(score) else (1, "")
    points = [factor * fold["test"][score] for fold in result["folds"]]
    figure = figures.draw_compare_methods({spoken(score): {"folds": points}}, unit=unit)
    return Picture("folds", "The score of every fold, and their mean.", figure)
