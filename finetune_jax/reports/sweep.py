"""Tables and figures of a sweep: everything tried, and figures 3 to 5 of "Rethinking the Hyperparameters"."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Picture, StudyReport
from finetune_jax.reports.tables import Table, csv_text, interval_of, json_text, spoken, with_spread

_ETA, _LAMBDA = "learning rate η", "weight decay λ"
_EFFECTIVE_ETA, _EFFECTIVE_LAMBDA = "effective learning rate η/(1 − m)", "effective weight decay λ/η"
ALL = "all rates"
"""Label of trials of all learning rates."""
_COLUMNS = (
    "learning_rate",
    "momentum",
    "weight_decay",
    "effective_learning_rate",
    "effective_weight_decay",
)


def report(result: Mapping[str, Any], root: Path) -> StudyReport:
    """How many were tried, all of them with the highest first, what to train with, and the three figures.

    Args:
        result: of ``sweep.result``.
        root: the directory of the study, named in the text.
    """
    trials, best = result["trials"], result["best"]
    counts = {
        state: sum(trial["state"] == state for trial in trials) for state in ("pruned", "diverged", "equal")
    }
    remarks = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    head = f"{result['dataset']}, {len(trials)} configurations tried" + (f" ({remarks})" if remarks else "")
    if best is None:
        ending = "no best: every trial diverged or was pruned; give lower --learning_rates"
    else:
        ending = _best_text(best, result, root)
    return StudyReport(
        title=f"Sweep of hyperparameters on {result['dataset']}",
        parts=[head, _trials_table(result), ending],
        pictures=_pictures(result),
        data={"results.json": json_text(result), "trials.csv": _csv(trials)},
    )


def _pictures(result: Mapping[str, Any]) -> list[Picture]:
    name = f"{spoken(result['score']).replace('accuracy', 'error')}, %"
    if "accuracy" not in result["score"]:
        name = f"100 % − {spoken(result['score'])}"
    captions = {
        "momentum": "Where the effective rate η/(1 − m) is what matters, the curves of the second panel lie on each "
        "other.",
        "effective_learning_rate": "Lowest error at each effective learning rate, for each weight decay and over all.",
        "effective_weight_decay": "Error over the effective weight decay.",
    }
    pictures = []
    for file, panels in curves(result).items():
        # Points of different learning rates make no curve over the weight decay.
        joined = not any(ALL in of_panel for of_panel in panels.values())
        best = "lowest" if file == "effective_learning_rate" else ""
        figure = figures.draw_error_curves(panels, error_name=name, best=best, joined=joined)
        pictures.append(Picture(file, captions[file], figure))
    return pictures


def curves(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, list[tuple[float, float]]]]]:
    """``{figure: {hyperparameter: {curve: (value, error in percent) of each trial}}}``.

    ``momentum``: errors over the learning rate and over the effective one, a curve per momentum; where the
    effective rate is what matters, the curves of the second panel lie on each other (Figure 3).
    ``effective_learning_rate``: a curve per weight decay (Figure 4). ``effective_weight_decay``: a curve per
    effective learning rate where there are few, else one for all (Figure 5).
    """
    scored = [trial for trial in result["trials"] if trial["state"] in ("complete", "equal")]

    def by(label: str, group: str | None, value: str) -> dict[str, list[tuple[float, float]]]:
        points: dict[str, list[tuple[float, float]]] = {}
        for trial in sorted(scored, key=lambda trial: trial[group] if group else 0):
            name = label.format(trial[group]) if group else label
            points.setdefault(name, []).append((trial[value], 100 * (1 - trial["score"])))
        return points

    # As many curves as one can still tell apart.
    few = len({trial["effective_learning_rate"] for trial in scored}) <= 8
    of_decay = by("η/(1 − m) = {:.3g}", "effective_learning_rate", "effective_weight_decay")
    return {
        "momentum": {
            _ETA: by("m = {:g}", "momentum", "learning_rate"),
            _EFFECTIVE_ETA: by("m = {:g}", "momentum", "effective_learning_rate"),
        },
        "effective_learning_rate": {
            _EFFECTIVE_ETA: by("λ = {:g}", "weight_decay", "effective_learning_rate")
        },
        "effective_weight_decay": {
            _EFFECTIVE_LAMBDA: of_decay if few else by(ALL, None, "effective_weight_decay")
        },
    }


def _trials_table(result: Mapping[str, Any]) -> Table:
    best, seeds = result["best"], len(result["seeds"])
    order = sorted(
        result["trials"],
        key=lambda trial: (trial["state"] in ("pruned", "diverged"), -(trial["score"] or 0)),
    )
    rows = [
        [
            f"{_label(trial) if trial['state'] != 'equal' else '–'}{' *' if _is_best(trial, best) else ''}",
            *(f"{trial[name]:.4g}" for name in _COLUMNS),
            "–" if trial["score"] is None else with_spread(trial["scores"] or [trial["score"]]),
            _remark(trial, seeds),
        ]
        for trial in order
    ]
    columns = ["trial", "η", "m", "λ", "η/(1 − m)", "λ/η", f"{spoken(result['score'])}, %", "remark"]
    return Table(columns, rows)


def _best_text(best: Mapping[str, Any], result: Mapping[str, Any], root: Path) -> str:
    rates = [trial["effective_learning_rate"] for trial in result["trials"]]
    rate = best["effective_learning_rate"]
    # One seed cannot tell the best from those near it.
    word = "best" if len(result["seeds"]) > 1 else "highest"
    lines = [
        f"{word}: --learning_rate={best['learning_rate']:.10g} --momentum={best['momentum']:g} "
        f"--weight_decay={best['weight_decay']:g}{_among(best, result['trials'])}"
    ]
    if len(set(rates)) > 1 and rate in (min(rates), max(rates)):
        lines.append(
            "its effective learning rate is at the edge of those tried: one beyond could be better still"
        )
    metric = result["score"].replace("validation", "test")
    test = spoken(metric)
    if best["test"] is None:
        lines.append(
            f"its runs lie on {best['place']}: {', '.join(best['runs'])}; {test} is in their summary.json"
        )
    else:
        ends = interval_of(metric, best["test"][0], best.get("test_images"))
        lines.append(f"{test}: {with_spread(best['test'], ends)} %")
        lines.append(f"run directory: {root / 'runs' / best['run']}")
    return "\n".join(lines)


def _among(best: Mapping[str, Any], trials: Iterable[Mapping[str, Any]]) -> str:
    """How many others did equally well; of those it is the first."""
    others = sum(_is_best(trial, best) for trial in trials) - 1
    return f" (the first of {others + 1} that did equally well)" if others > 0 else ""


def _label(trial: Mapping[str, Any]) -> str:
    """What the name of the trial's directory begins with; of an equal trial the other's."""
    return trial["directory"].split("-")[0]


def _is_best(trial: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    """Whether no trial did better; all of those that did equally well are marked."""
    if best is None or trial["state"] != "complete":
        return False
    return trial["number"] == best["number"] or trial["score"] == best["score"]


def _remark(trial: Mapping[str, Any], seeds: int) -> str:
    if trial["state"] == "equal":
        return f"equal to {_label(trial)}"
    if trial["state"] == "pruned":
        return f"pruned after {trial['epochs']} epochs" + (f" of {seeds} seeds" if seeds > 1 else "")
    return "" if trial["state"] == "complete" else trial["state"]


def _csv(trials: Iterable[Mapping[str, Any]]) -> str:
    columns = ["number", *_COLUMNS, "state", "score", "scores", "epochs", "directory", "equal_to", "place"]
    cells = ({**trial, "scores": " ".join(map(repr, trial["scores"]))} for trial in trials)
    return csv_text([columns, *([row[name] for name in columns] for row in cells)])
