"""Report of a recommendation: the weights, the methods, which one to train, and what more images would bring."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.algorithms.metrics import mean_and_spread
from finetune_jax.algorithms.uncertainty import mcnemar, wilson_interval
from finetune_jax.config import durations
from finetune_jax.reports import figures
from finetune_jax.reports.study_report import Command, Picture, StudyReport
from finetune_jax.reports.tables import Table, json_text, percent, with_spread

PROBE = "ridge probe of the head alone"
"""What is called what fine-tuning must beat."""


def report(result: Mapping[str, Any]) -> StudyReport:
    """The page of a recommendation.

    Args:
        result: of ``studies.recommend.run``.
    """
    parts: list[str | Command | Table] = [
        _headline(result),
        "Train it in full:",
        Command(result["contestants"][result["recommended"]]),
        f"Weights, by probes of their features: no part of the network is trained. ± is the standard deviation of five "
        f"folds of {_probed(result)}; LogME is comparable within a column only.",
        origins_table(result),
        f"Methods on {result['origin']} by successive halving on the validation images. In brackets 95 % Wilson "
        "intervals of so few images; "
        "p is of McNemar's test against the best one on the same images. As the validation images chose, the score of "
        "the best is a little too high: the whole training tests it on images that nothing here has looked at.",
        methods_table(result),
        _times(result),
    ]
    pictures = []
    if result["curve"]:
        parts.append(_curve_sentence(result))
        pictures.append(_curve_picture(result))
    return StudyReport(
        title=f"A recommendation for {result['dataset']}",
        parts=parts,
        pictures=pictures,
        data={"results.json": json_text(dict(result))},
    )


def _probed(result: Mapping[str, Any]) -> str:
    probe = result["probes"][result["origin"]]
    seen, images = len(probe["ridge"]["right"]), images_of(probe)
    return "the training images" if seen >= images else f"{seen:,} of {images:,} training images"


def origins_table(result: Mapping[str, Any]) -> Table:
    """A row per origin, the best ridge probe first."""
    usable = {name: probe for name, probe in result["probes"].items() if "unusable" not in probe}
    ranked = sorted(usable, key=lambda name: -_mean(usable[name]["ridge"]["folds"]))
    rows: list[list[Any]] = [
        [
            name + (" (taken)" if name == result["origin"] else ""),
            probe["image_size"],
            with_spread(probe["ridge"]["folds"]),
            with_spread(probe["neighbours"]["folds"]),
            round(probe["logme"], 4),
            probe["similarity"],
            f"{probe['parameters'] / 1e6:.1f} M",
            f"{probe['milliseconds']:.2f}",
        ]
        for name, probe in ((name, usable[name]) for name in ranked)
    ]
    rows += [
        [f"{name}: {probe['unusable']}", *[None] * 7]
        for name, probe in result["probes"].items()
        if "unusable" in probe
    ]
    columns = ["weights", "pixels", "ridge probe, %", "k-NN, %", "LogME", "similarity", "parameters"]
    return Table([*columns, "ms per image"], rows)


def methods_table(result: Mapping[str, Any]) -> Table:
    """The probe, and a row per method by its last rung, the best first, those without a score last."""
    probe = result["probes"][result["origin"]]
    best = _right(result["measured"][result["best"]]["right"]) if result["best"] else None
    last = _last_trials(result)
    ranked = sorted(last.values(), key=lambda trial: (trial["score"] is None, -_share(result, trial)))
    rows: list[list[Any]] = [
        [
            f"{PROBE} ({result['origin']})",
            None,
            _score(probe["validation"]),
            _p(probe["validation"], best),
            _seconds(result, f"probe/{result['origin']}"),
            None,
            None,
            None,
            f"{probe['milliseconds']:.2f}",
            "what fine-tuning must beat",
        ]
    ]
    for trial in ranked:
        measured = result["measured"].get(trial["name"])
        is_scored = trial["score"] is not None and measured is not None
        rows.append(
            [
                _with_origin(result, trial["name"]),
                trial["epochs"],
                _score(measured["right"]) if is_scored else None,
                _p(measured["right"], best) if is_scored else None,
                durations.spoken(_seconds_of(result, trial["name"])),
                _images_of(result, trial["name"]),
                durations.spoken(in_full(trial, result["epochs"])) if is_scored else None,
                _millions(trial["parameters_trained"]),
                f"{measured['milliseconds']:.2f}" if is_scored else None,
                _remark(result, trial),
            ]
        )
    columns = ["method", "epochs", "validation, %", "p", "time taken", "images trained", "time in full"]
    return Table([*columns, "trained", "ms per image", ""], rows)


def _with_origin(result: Mapping[str, Any], name: str) -> str:
    """The name of a method, with its weights where these are not those of the others."""
    origin = result["origins_of"][name]
    return name if origin == result["origin"] or name.endswith(f" {origin}") else f"{name} on {origin}"


def _untried(result: Mapping[str, Any]) -> list[str]:
    last = _last_trials(result)
    return [name for name in result["contestants"] if name not in last]


def in_full(trial: Mapping[str, Any], epochs: int) -> float:
    """Seconds that a training of so many epochs with all images is expected to take.

    Args:
        trial: of the record.
        epochs: of the whole training.
    """
    each = trial["seconds_per_epoch"]
    beside = max(0.0, trial["seconds"] - trial["epochs"] * each)
    return float(beside + epochs * each / trial.get("share", 1.0))


def images_of(probe: Mapping[str, Any]) -> int:
    """Training images of the data set, of which a probe may have seen a part."""
    return int(probe.get("images", len(probe["ridge"]["right"])))


def _headline(result: Mapping[str, Any]) -> str:
    origin, name = result["origin"], result["recommended"]
    probe = result["probes"][origin]
    of_probe = _right(probe["validation"])
    if result["by_probes"]:
        return (
            f"The budget of {durations.spoken(result['budget'])} is too small to train anything here, so this is what "
            f"the probes alone say: start from {origin}, whose ridge probe is right on "
            f"{percent(_mean(probe['ridge']['folds']))} of the training images by cross-validation, and train as below."
        )
    right = _right(result["measured"][name]["right"])
    difference = mcnemar(right, of_probe)
    if _mean(right) < _mean(of_probe) and difference <= 0.05:
        return (
            "No trial that there was time for was long enough to reach the ridge probe of the frozen features "
            f"({percent(_mean(of_probe))} of the validation images, {name} {percent(_mean(right))}), so they do not "
            f"tell methods apart; a larger --budget does. Until then: start from {origin}, and compare with what its "
            f"features reach as they are. Of what was tried, {name} is the one to train."
        )
    text = f"Recommended: {name} on {result['origins_of'][name]}, {percent(_mean(right))} of the validation images."
    others = [other for other in result["tied"] if other != name]
    if others:
        text += (
            f" That is a tie with {', '.join(others)}: on {len(right)} validation images the differences may be "
            f"chance, and {name} costs the least."
        )
    elif sum(trial["score"] is not None for trial in _last_trials(result).values()) > 1:
        text += " It is measurably better than all others that were tried."
    else:
        text += " There was no time to try another; a larger --budget compares it."
    if _mean(right) > _mean(of_probe) and difference <= 0.05:
        of_probe_text = f"({percent(_mean(of_probe))}) by more than chance (p {p_text(difference)})"
        return f"{text} It beats the ridge probe {of_probe_text}."
    return (
        f"{text} It does not measurably beat the ridge probe ({percent(_mean(of_probe))}, p {p_text(difference)}): the "
        "features as they are do nearly as well here, or the validation images are too few to see it."
    )


def _times(result: Mapping[str, Any]) -> str:
    text = (
        f"Taken: {durations.spoken(result['spent'])} of a budget of {durations.spoken(result['budget'])}, starts of "
        "the program not counted. Time taken includes compilation and earlier rungs; time in full is expected of "
        f"{result['epochs']} epochs."
    )
    if untried := _untried(result):
        text += f" No time was left to try {', '.join(untried)}."
    few = [rung["images_per_class"] for rung in result["rungs"] if "images_per_class" in rung]
    if few:
        images = images_of(result["probes"][result["origin"]])
        text += (
            f" There was no time for all {images:,} training images: trials took {few[0]} per class"
            f"{f' and in the end {few[-1]}' if len(few) > 1 else ''}, the command below the headline takes all."
        )
    rungs = [f"{_length(rung)}: {', '.join(_tried(rung))}" for rung in result["rungs"] if rung["trials"]]
    return f"{text} Rungs: {'; '.join(rungs)}." if rungs else text


def _length(rung: Mapping[str, Any]) -> str:
    of_class = rung.get("images_per_class")
    epochs = f"{rung['epochs']} epoch{'s' if rung['epochs'] != 1 else ''}"
    return f"{epochs} of {of_class} images per class" if of_class else epochs


def _tried(rung: Mapping[str, Any]) -> list[str]:
    return [trial["name"] for trial in rung["trials"]]


def _curve_sentence(result: Mapping[str, Any]) -> str:
    curve = {int(count): values for count, values in result["curve"].items()}
    steps = ", ".join(f"{count}: {with_spread(values)}" for count, values in sorted(curve.items()))
    return (
        "How much would more images help? Ridge probes of so many training images per class, % of the validation "
        f"images, ± over five draws: {steps}. It is the curve of the probe, not of fine-tuning, which gains more from "
        "more images as a rule."
    )


def _curve_picture(result: Mapping[str, Any]) -> Picture:
    curve = {int(count): values for count, values in result["curve"].items()}
    figure = figures.draw_learning_curve(curve, score_name="validation accuracy of the ridge probe")
    return Picture(
        "learning_curve", "The ridge probe by training images per class; a point for each draw.", figure
    )


def _last_trials(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The last trial of each contestant that has a score, or else its last one."""
    last: dict[str, Mapping[str, Any]] = {}
    for rung in result["rungs"]:
        for trial in rung["trials"]:
            if trial["score"] is not None or trial["name"] not in last:
                last[trial["name"]] = trial
    return last


def _remark(result: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    name = trial["name"]
    words = [trial["reason"]] if trial["score"] is None else []
    if name == result["recommended"] and not result["by_probes"]:
        words.append("recommended")
    if name == result["best"]:
        words.append("best")
    elif name in result["tied"]:
        words.append("tie")
    return ", ".join(words)


def _right(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


def _score(text: str) -> str:
    right = _right(text)
    return with_spread([_mean(right)], wilson_interval(sum(right), len(right)))


def _share(result: Mapping[str, Any], trial: Mapping[str, Any]) -> float:
    measured = result["measured"].get(trial["name"])
    return _mean(_right(measured["right"])) if measured else 0.0


def _p(text: str, best: list[bool] | None) -> str | None:
    return None if best is None else p_text(mcnemar(_right(text), best))


def p_text(p: float) -> str:
    """A p-value for people.

    >>> p_text(0.0312), p_text(9.7e-54)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _mean(values: Any) -> float:
    return mean_and_spread([float(value) for value in values])[0]


def _seconds(result: Mapping[str, Any], step: str) -> str:
    return durations.spoken(result["seconds_of"].get(step, 0.0))


def _seconds_of(result: Mapping[str, Any], name: str) -> float:
    return sum(
        trial["seconds"] for rung in result["rungs"] for trial in rung["trials"] if trial["name"] == name
    )


def _images_of(result: Mapping[str, Any], name: str) -> int:
    return sum(
        trial["images"] for rung in result["rungs"] for trial in rung["trials"] if trial["name"] == name
    )


def _millions(parameters: int | None) -> str | None:
    return None if parameters is None else f"{parameters / 1e6:.2f} M"
