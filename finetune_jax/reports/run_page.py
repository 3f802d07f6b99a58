"""The report of a run: one page, its figures, and tables for programs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.algorithms import retrieval
from finetune_jax.algorithms.metrics import balanced_accuracy
from finetune_jax.algorithms.uncertainty import bootstrap_interval, calibration
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.reports import class_scores, examples, figures, pages, run_figures, value_page
from finetune_jax.reports.figures import curves
from finetune_jax.reports.run_result import Classified, Labelled, Measured, Retrieved, Rows, RunResult
from finetune_jax.reports.study_report import Picture, pictures_as_files
from finetune_jax.reports.tables import (
    PROBES,
    Files,
    Table,
    ends_text,
    interval_of,
    mappings_table,
    percent,
    probed_scores,
    result_line,
    score_text,
    spoken,
)

_REFRESH_SECONDS = 10
_BATCH = 24
_PAIRS, _OF_PAIR = 6, 4
"""Confusions that are shown with images, and how many of each."""
_BOOTSTRAP_CELLS = 20_000_000
"""Samples times images times classes that a bootstrap may look at, about a second."""


def files(result: RunResult) -> dict[str, bytes]:
    """The report of a run, while it goes on or when it has ended.

    A pure function of its argument. While the run goes on (no summary) the page asks the browser to load it again every
    ten seconds, and no figures are written beside it.

    Returns:
        ``report.html``; when the run has ended also its figures in the formats asked for, ``classes.csv`` of a
        classifier, and the files of the method.
    """
    pictures = _Pictures.of(result)
    page = pages.render("run.html", **_page(result, pictures)).encode()
    if result.summary is None:
        return {"report.html": page}
    beside = [picture for picture in pictures.all if picture.name != "reliability"]
    return {**tables_of(result), **_encoded(pictures_as_files(beside, result.formats)), "report.html": page}


def tables_of(result: RunResult) -> dict[str, bytes]:
    """What programs read of a run that has ended: ``classes.csv`` of a classifier, and the files of the method."""
    test, classes = result.test, {}
    if isinstance(test, Classified):
        classes = {"classes.csv": class_scores.classes_csv(_scores_of_classes(test))}
    elif isinstance(test, Labelled):
        classes = {"classes.csv": value_page.classes_csv(test)}
    return _encoded({**result.files, **classes})


def _encoded(files: Files) -> dict[str, bytes]:
    return {
        name: content if isinstance(content, bytes) else content.encode() for name, content in files.items()
    }


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """The figures of a run by their place on the page."""

    training: Picture | None
    panels: Sequence[Picture]
    test: Sequence[Picture]
    method: Sequence[Picture]
    blocks: Sequence[Picture]

    @classmethod
    def of(cls, result: RunResult) -> "_Pictures":
        measured = curves.measured(result.rows, result.score)
        best = None if result.summary is None else result.summary["best_epoch"]
        drawn = [
            Picture(
                name,
                "",
                figures.draw_training_curves(result.rows, best, result.score, only=name),
            )
            for name in measured
        ]
        whole = None
        if measured and result.summary is not None:
            whole = figures.draw_training_curves(result.rows, best, result.score)
        return cls(
            training=None if whole is None else Picture("training", "", whole),
            panels=drawn,
            test=_of_test(result),
            method=result.pictures,
            blocks=run_figures.of_blocks(result.passes),
        )

    @property
    def all(self) -> list[Picture]:
        """Those that are files too."""
        training = [] if self.training is None else [self.training]
        return [*training, *self.blocks, *self.test, *self.method]


def _of_test(result: RunResult) -> list[Picture]:
    test = result.test
    if test is None:
        return []
    if isinstance(test, Labelled | Measured):
        return value_page.pictures_of(test)
    if isinstance(test, Retrieved):
        return run_figures.of_retrieval(test.embeddings, test.images, test.class_names, test.gallery)
    matrix = class_scores.matrix_of(test.logits, test.labels, test.class_names)
    calibrated = calibration(examples.probabilities(test.logits / test.temperature), test.labels)
    before, earlier = None, ""
    if test.temperature != 1:
        plain = calibration(examples.probabilities(test.logits), test.labels)
        before = (plain.confidence, plain.accuracy)
        earlier = (
            f", with the temperature {test.temperature:.3g} that was fitted to the validation images; without it "
            f"{percent(plain.error)}"
        )
    reliability = figures.draw_reliability(
        calibrated.confidence, calibrated.accuracy, calibrated.images, before=before
    )
    explained = (
        "Each point is a tenth of the range of probabilities, with its number of images: on the dotted line the "
        "network is right as often as it says, below it is too sure of itself. Expected calibration error "
        f"{percent(calibrated.error)}{earlier}."
    )
    return [
        Picture(
            "confusion",
            "Rows are true classes, columns predictions; the darker a cell, the larger its share of the row. Point at "
            "a cell for its classes.",
            figures.draw_confusion(matrix, test.class_names),
        ),
        Picture("reliability", explained, reliability),
    ]


def _scores_of_classes(test: Classified) -> list[class_scores.ClassScore]:
    matrix = class_scores.matrix_of(test.logits, test.labels, test.class_names)
    return class_scores.by_recall(matrix, test.class_names)


def _page(result: RunResult, pictures: _Pictures) -> dict[str, Any]:
    """What the template fills in."""
    summary, flags = result.summary, result.flags
    by_name = {picture.name: (picture.caption, pages.inline(picture.figure)) for picture in pictures.test}
    test = result.test if isinstance(result.test, Classified) else None
    chosen = None if test is None else examples.notable(test.logits, test.labels)
    telling = bool(result.passes and result.passes[0].get("threshold")) or run_figures.block_rates_differ(
        result.passes
    )
    dataset = str(flags.get("dataset", "")) if summary is None else str(summary["dataset"])
    changed, unchanged = _settings(flags)
    confusions, confused = [], []
    if test is not None:
        matrix = class_scores.matrix_of(test.logits, test.labels, test.class_names)
        confusions = class_scores.worst_confusions(matrix, test.class_names)
        confused = _confused(test, confusions)
    values = result.test if isinstance(result.test, Labelled | Measured) else None
    groups = {} if summary is None else summary.get("groups", {})
    return {
        "title": f"{dataset}, fine-tuned ({flags.get('method', 'standard')})",
        "refresh": _REFRESH_SECONDS if summary is None else None,
        "status": _status(result),
        "notes": [] if summary is None else [*summary["notes"], *summary.get("remarks", ())],
        "seen": Table(["", ""], [*result.seen.items()]),
        "scores": None if summary is None else _score_table(summary, result.test),
        "panels": [pages.inline(picture.figure) for picture in pictures.panels],
        "batch": [] if result.training_images is None else _batch(result.training_images),
        "mistakes": [] if test is None or chosen is None else _cards(test, chosen.mistakes),
        "unsure": [] if test is None or chosen is None else _cards(test, chosen.unsure),
        "classes": None if test is None else _scores_of_classes(test),
        "confusions": confusions,
        "confused": confused,
        "labels": value_page.class_table(values) if isinstance(values, Labelled) else None,
        "worst": [] if values is None else value_page.worst(values),
        "scatters": [captioned for name, captioned in by_name.items() if name.startswith("scatter")],
        "groups": mappings_table("group", groups) if groups else None,
        "confusion": by_name.get("confusion"),
        "reliability": by_name.get("reliability"),
        "neighbours": by_name.get("neighbours"),
        "method": [(picture.caption, pages.inline(picture.figure)) for picture in pictures.method],
        "blocks": [(picture.caption, pages.inline(picture.figure)) for picture in pictures.blocks]
        if telling
        else [],
        "epochs": _epochs(result.rows),
        "facts": None if summary is None else _facts(summary),
        "changed": Table(["setting", "value", "default"], changed),
        "unchanged": Table(["setting", "value"], unchanged),
        "command": result.command,
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "data_digest": result.data_digest,
    }


def _status(result: RunResult) -> str:
    if result.summary is not None:
        line = result_line(result.summary)
        return line[0].upper() + line[1:]
    epochs = result.flags.get("epochs")
    if not result.rows:
        return f"Epoch 1 of {epochs} goes on"
    last = result.rows[-1]
    scores = [
        f"{split} {spoken(result.score)} {score_text(name, float(last[name]))}"
        for split in ("train", "validation", "test")
        if last.get(name := f"{split}_{result.score}")
    ]
    return ", ".join([f"Epoch {last['epoch']} of {epochs} is done", *scores])


def _score_table(summary: Mapping[str, Any], test: Any) -> Table:
    """Test scores in percent, and how far chance in the choice of images reaches."""
    images = summary["images"].get("test")
    rows = []
    # The score that the run is about first, the loss last.
    of_run = summary.get("score")
    order = sorted(summary.items(), key=lambda entry: (entry[0] != of_run, "loss" in entry[0]))
    for name, value in order:
        if not name.startswith("test_") or not isinstance(value, float):
            continue
        if "loss" in name:
            rows.append([spoken(name), score_text(name, value), ""])
            continue
        ends, way = interval_of(name, value, images), "Wilson"
        if name in summary.get("intervals", {}):
            ends, way = ends or tuple(summary["intervals"][name]), "Wilson" if ends else "bootstrap"
        elif name == "test_balanced_accuracy" and isinstance(test, Classified):
            ends, way = _bootstrapped_balance(test), "bootstrap"
        elif name == "test_map_at_r" and isinstance(test, Retrieved):
            ends, way = _bootstrapped_precision(test), "bootstrap over the queries"
        shown = "" if ends is None else f"{ends_text(name, ends)} ({way})"
        rows.append([spoken(name), score_text(name, value), shown])
    for probe, value in probed_scores(summary).items():
        name = summary["score"]
        ends = interval_of(name, value, images)
        shown = "" if ends is None else f"{ends_text(name, ends)} (Wilson)"
        rows.append([f"{spoken(name)} of {PROBES[probe]}", score_text(name, value), shown])
    return Table(["score", "value", "95 % interval"], rows)


def _bootstrapped_balance(test: Classified) -> tuple[float, float] | None:
    predicted, labels, count = test.logits.argmax(1), test.labels, len(test.class_names)
    samples = min(1000, _BOOTSTRAP_CELLS // (len(labels) + count**2))
    if samples < 100:
        return None

    def statistic(drawn: np.ndarray) -> float:
        pairs = labels[drawn].astype(np.int64) * count + predicted[drawn]
        matrix = np.bincount(pairs, minlength=count**2).reshape(count, count)
        return balanced_accuracy(matrix)

    return bootstrap_interval(statistic, len(labels), samples=samples)


def _bootstrapped_precision(test: Retrieved) -> tuple[float, float]:
    gallery, searched = test.gallery or (None, None)
    labels = None if searched is None else searched.labels
    values = retrieval.average_precisions(
        test.embeddings, test.images.labels, gallery=gallery, gallery_labels=labels
    )
    samples = max(100, min(1000, _BOOTSTRAP_CELLS // len(values)))
    return bootstrap_interval(lambda drawn: float(values[drawn].mean()), len(values), samples=samples)


def _confused(test: Classified, pairs: Sequence[class_scores.Confusion]) -> list[dict[str, Any]]:
    """The most frequent confusions with some of their images, the most confident first."""
    if test.images is None:
        return []
    chances = examples.probabilities(test.logits / test.temperature)
    predicted, names = chances.argmax(1), list(test.class_names)
    shown = []
    for pair in pairs[:_PAIRS]:
        true_class, predicted_class = names.index(pair.true), names.index(pair.predicted)
        places = np.flatnonzero((test.labels == true_class) & (predicted == predicted_class))
        places = places[np.argsort(-chances[places, predicted_class], kind="stable")][:_OF_PAIR]
        cards = [
            {
                "source": pages.image(test.images[place], most=160),
                "small": pages.is_small(test.images[place]),
                "name": test.names[place] if len(test.names) else "",
            }
            for place in map(int, places)
        ]
        shown.append({"pair": pair, "cards": cards})
    return shown


def _batch(images: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"source": pages.image(image, most=160), "small": pages.is_small(image)} for image in images[:_BATCH]
    ]


def _cards(test: Classified, places: np.ndarray) -> list[dict[str, Any]]:
    """What is shown of each image: itself, its classes with their probabilities, its name."""
    chances = examples.probabilities(test.logits / test.temperature)
    cards = []
    for place in map(int, places):
        image = test.photos.get(place)
        if image is None and test.images is not None:
            image = test.images[place]
        if image is None:
            continue
        label, predicted = int(test.labels[place]), int(chances[place].argmax())
        second = int(np.argsort(-chances[place], kind="stable")[min(1, chances.shape[1] - 1)])
        cards.append(
            {
                "source": pages.image(image),
                "small": pages.is_small(image),
                "true": test.class_names[label],
                "true_chance": float(chances[place, label]),
                "predicted": test.class_names[predicted],
                "chance": float(chances[place, predicted]),
                "second": test.class_names[second],
                "second_chance": float(chances[place, second]),
                "name": test.names[place] if len(test.names) else "",
            }
        )
    return cards


def _epochs(rows: Rows) -> Table | None:
    if not rows:
        return None
    cells = [[f"{float(value):.4g}" if "." in value else value for value in row.values()] for row in rows]
    return Table([spoken(name) for name in rows[0]], cells)


def _facts(summary: Mapping[str, Any]) -> Table:
    known = [
        (spoken(name), value)
        for name, value in summary.items()
        if isinstance(value, int | float | str) and not name.startswith("test_")
    ]
    return Table(["", ""], known)


def _settings(flags: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Those that differ from their defaults, with the default, and the others."""
    defaults = dataclasses.asdict(FinetuneConfig())
    changed, unchanged = [], []
    for name, value in flags.items():
        if name in defaults and value != defaults[name]:
            changed.append([f"--{name}", _shown(value), _shown(defaults[name])])
        else:
            unchanged.append([f"--{name}", _shown(value)])
    return changed, unchanged


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value)
