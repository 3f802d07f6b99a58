"""What is plain to see in a finished run, in sentences that say what to do about it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.algorithms.uncertainty import wilson_interval
from finetune_jax.reports.run_result import Classified, Rows, RunResult
from finetune_jax.reports.tables import PROBES, percent, probed_scores, score_text, spoken

_RISE = 1.1
_EPOCHS_BEHIND = 3
_BY_HEART, _GAP = 0.98, 0.2
_LARGEST_STEP = 0.01
_THUMBNAIL = 64
_CLASSES_NAMED = 5


def remarks(result: RunResult) -> list[str]:
    """Sentences on a run that has ended; none where there is nothing to remark.

    A pure function of its argument: overfitting, a validation split too small to choose by, test scores that chance
    or a probe of the frozen features reaches too, classes that are never predicted, thumbnails where larger weights are
    installed.

    Args:
        result: with a summary.
    """
    if result.summary is None:
        return []
    sentences = [
        _overfitting(result.rows, result.score),
        _small_validation(result),
        _not_above_probe(result.summary),
        *_on_classes(result.test if isinstance(result.test, Classified) else None),
        _thumbnails(result),
    ]
    return [text for text in sentences if text]


def _overfitting(rows: Rows, score: str) -> str:
    losses = _numbers(rows, "validation_loss")
    train, validated = _numbers(rows, f"train_{score}"), _numbers(rows, f"validation_{score}")
    remedy = "fewer --epochs, a stronger --augmentation, more images or larger --pretrained weights help"
    if len(losses) == len(rows) and losses:
        lowest = int(np.argmin(losses))
        training = _numbers(rows, "train_loss")
        falls = len(training) == len(rows) and training[-1] < training[lowest]
        if len(rows) - 1 - lowest >= _EPOCHS_BEHIND and losses[-1] > _RISE * losses[lowest] and falls:
            return (
                f"overfitting since epoch {int(rows[lowest]['epoch'])}: the validation loss has risen from "
                f"{losses[lowest]:.3f} to {losses[-1]:.3f} while the training loss fell; {remedy}"
            )
    measured = score == "accuracy" and len(rows) > 0 and len(train) == len(validated) == len(rows)
    if measured and train[-1] >= _BY_HEART and train[-1] - max(validated) >= _GAP:
        first = next(epoch for epoch, value in enumerate(train) if value >= _BY_HEART)
        return (
            f"learned by heart since epoch {int(rows[first]['epoch'])}: training accuracy {percent(train[-1])} "
            f"against {percent(max(validated))} on validation; {remedy}"
        )
    return ""


def _small_validation(result: RunResult) -> str:
    summary = result.summary or {}
    count = summary.get("images", {}).get("validation", 0)
    if not (result.score == "accuracy" or result.score.startswith(("recall", "map_at"))):
        return ""
    if summary.get("selected_on") != "validation" or not count or 1 / count < _LARGEST_STEP:
        return ""
    return (
        f"one of the {count} validation images is {100 / count:.1f} points of {spoken(result.score)}: epochs and runs "
        "that differ by less are not told apart; a larger --validation_fraction or several --seed are surer"
    )


def _not_above_probe(summary: Mapping[str, Any]) -> str:
    probed = probed_scores(summary)
    if not probed or summary[name := summary["score"]] > max(probed.values()):
        return ""
    best = max(probed, key=probed.__getitem__)
    alone = "" if summary.get("method") == "feature_extractor" else "--method=feature_extractor, "
    return (
        f"{PROBES[best]}, reaches {score_text(name, probed[best])} {spoken(name)}, and this run "
        f"{score_text(name, summary[name])}: training has not paid so far; try {alone}another --learning_rate or more "
        "--epochs"
    )


def _on_classes(test: Classified | None) -> list[str]:
    if test is None or not len(test.labels):
        return []
    predicted, labels, count = test.logits.argmax(1), test.labels, len(test.class_names)
    sentences = []
    commonest = float(np.bincount(labels, minlength=count).max()) / len(labels)
    right = float((predicted == labels).sum())
    if count > 1 and wilson_interval(right, len(labels))[0] <= commonest:
        sentences.append(
            f"to name the commonest class every time would be right for {percent(commonest)} of the test images, which "
            "is within the interval of the accuracy: nothing is known to have been learned; try another "
            "--learning_rate, more --epochs or more images"
        )
    absent = np.setdiff1d(np.unique(labels), predicted)
    if absent.size:
        names = [f"{test.class_names[number]} ({int((labels == number).sum())})" for number in absent]
        more = f" and {len(names) - _CLASSES_NAMED} more" if len(names) > _CLASSES_NAMED else ""
        sentences.append(
            f"no test image is taken for {', '.join(names[:_CLASSES_NAMED])}{more} (in brackets: test images of the "
            "class); more images of it, --balanced_sampling or more --epochs may help"
        )
    return sentences


def _thumbnails(result: RunResult) -> str:
    if not result.larger_weights or not 0 < result.image_size <= _THUMBNAIL:
        return ""
    if result.photo_size < 2 * result.image_size:
        return ""
    if result.flags.get("pretrained") in result.larger_weights:
        advice = "its weights are for larger images: leave out --image_size"
    else:
        flags = ", ".join(f"--pretrained={name}" for name in result.larger_weights[:3])
        advice = f"installed are weights for larger images: {flags}"
    return (
        f"the network saw thumbnails of {result.image_size} pixels, and half of the photos have "
        f"{result.photo_size} or more on their shorter side; {advice}"
    )


def _numbers(rows: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name)]
