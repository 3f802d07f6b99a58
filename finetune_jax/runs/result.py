"""What a run leaves behind: its best weights tested, labels of what had none, the summary and the report."""

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.data.feeds import create_feed
from finetune_jax.errors import UserError
from finetune_jax.files import calibration, checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import Card
from finetune_jax.models.compositions.adapted import AdaptedNetwork
from finetune_jax.models.network import Variables
from finetune_jax.models.weights import adapted_origin, adapter_files
from finetune_jax.reports import predictions, remarks, run_page, tables
from finetune_jax.reports.run_result import RunResult
from finetune_jax.runs import assessment, frozen_probe, report
from finetune_jax.runs.assessment import Assessment
from finetune_jax.runs.chosen_rate import Settings
from finetune_jax.runs.program import Program
from finetune_jax.runs.summary import Rows, summarise
from finetune_jax.training import averages, saving
from finetune_jax.training.methods.method import Findings, TrainedRun


def finish(
    program: Program,
    settings: Settings,
    directory: RunDirectory,
    began: float,
    printed_lines: set[str] | None = None,
) -> dict[str, Any]:
    """Test what was trained, write what the run directory lacks, and return the summary.

    Args:
        program: of the run.
        settings: of the run.
        directory: of the run, trained to the end.
        began: value of ``time.monotonic`` at its start.
        printed_lines: remarks that need not be printed again; those of this run come to them.

    Raises:
        UserError: a file cannot be written or read.
    """
    rows = directory.read_metrics()
    best_step, best = best_row(directory, rows)
    totals = {name: float(best[f"train_{name}"]) for name in program.method.totals}
    saved = checkpoints.restore_variables(directory.checkpoints, best_step, program.variables)
    averaged = averages.are_better(settings.config, program.task.score, best)
    if averaged:
        saved = with_averages(program, directory, best_step, saved)
    best_variables = program.method.result(saved, totals)
    if program.method.makes_compact:
        card = dataclasses.replace(program.card, composition={})
        write_compact(program, directory, best_step, best_variables, card)
    elif averaged:
        write_compact(program, directory, best_step, saved, program.card)
    variables = program.placement.variables(best_variables)
    outputs = program.outputs(program.predict, variables, "test")
    gallery = program.gallery_outputs(program.predict, variables)
    scores = program.scores_of_outputs(outputs, gallery)
    card, assessed = assess(program, variables, outputs, best_step, directory)
    seconds = time.monotonic() - began
    findings = program.method.examine(trained_run(program, settings, variables, totals))
    summary = summarise(program, settings, rows, best, scores, findings, seconds)
    if assessed is not None:
        summary |= of_assessment(assessed, scores)
        if card.task != "regression":
            summary["temperature"] = card.temperature
    if frozen_probe.has_one(program) and (probed := frozen_probe.scores(program)):
        summary["probe"] = probed
    if kind := averages.kind_of(settings.config):
        summary["weights"] = kind if averaged else "weights"
    label_unlabelled(program, variables, directory)
    write_tested(program, outputs, directory, card)
    if settings.config.save_adapter and program.replicas.is_primary:
        assert isinstance(program.method.model, AdaptedNetwork)
        base = settings.flags.pretrained
        adapter_files.write(directory.path / "adapter", program.method.model, saved, base)
        adapted_origin.write_card(directory.path / "adapter", card)
    if program.replicas.is_primary:
        for note in findings.notes:
            print(f"warning: {note}", file=sys.stderr)
        passes = directory.read_passes()
        result = run_result(program, settings, summary, rows, passes, outputs, gallery, findings, card)
        summary["remarks"] = remarks.remarks(result)
        for remark in summary["remarks"]:
            if remark not in (printed_lines or ()):
                print(f"remark: {remark}", file=sys.stderr)
        if printed_lines is not None:
            printed_lines.update(summary["remarks"])
        written = run_page.files(result) if settings.flags.report else run_page.tables_of(result)
        for name, content in written.items():
            directory.write_file(name, content)
        directory.note(tables.result_line(summary))
        directory.write_summary(summary)
    return summary


def assess(
    program: Program, variables: Variables, outputs: np.ndarray, best_step: int, directory: RunDirectory
) -> tuple[Card, Assessment | None]:
    """Fit temperature and thresholds to the validation images, keep them, and assess the test images by them.

    Args:
        program: of the run.
        variables: the result, on the devices.
        outputs: of the test images.
        best_step: number of the checkpoint that the result comes from.
        directory: of the run.

    Returns:
        The card with what was fitted, and the assessment; None for retrieval, which says nothing of an image.
    """
    card, images = program.card, program.images
    if program.task.name == "retrieval":
        return card, None
    entries: dict[str, Any] = {}
    if "validation" in images.feeds:
        labels = images.splits["validation"].labels
        entries = assessment.fitted(card, program.outputs(program.predict, variables, "validation"), labels)
    if entries:
        directory.write_file(calibration.FILE, calibration.content(best_step, entries))
        card = Card.from_json({**card.to_json(), **entries})
    test, kept = images.source.splits["test"], images.splits["test"].kept
    groups = None if test.group_names is None else [test.group_names[place] for place in kept]
    return card, assessment.assess(card, outputs, images.splits["test"].labels, groups)


def of_assessment(assessed: Assessment, scores: Mapping[str, float]) -> dict[str, Any]:
    """What ``summary.json`` has of an assessment: scores that it lacks, intervals of all, and groups."""
    values = {f"test_{name}": value for name, value in assessed.scores.items() if name != "loss"}
    more = {name: value for name, value in values.items() if name not in scores}
    # A run is used with what was fitted to its validation images, which decides what is said: thresholds of classes,
    # and the temperature of grades. Rows of metrics.csv are without.
    if "test_micro_f1" in values:
        more |= {name: values[name] for name in ("test_micro_f1", "test_macro_f1")}
    if "test_quadratic_kappa" in values:
        more |= values
    return {
        **more,
        "intervals": {
            f"test_{name}": list(ends) for name, ends in assessed.intervals.items() if name != "loss"
        },
        **({"groups": assessed.groups} if assessed.groups else {}),
    }


def best_row(directory: RunDirectory, rows: Rows) -> tuple[int, Mapping[str, str]]:
    """Number of the best checkpoint, and the row of its epoch.

    Raises:
        UserError: there is none.
    """
    best = checkpoints.best_step(directory.checkpoints)
    if best is None:
        raise UserError(f"{directory.checkpoints} holds no evaluated checkpoint")
    return best, next(row for row in rows if int(row["step"]) == best)


def trained_run(
    program: Program, settings: Settings, variables: Variables, totals: Mapping[str, float]
) -> TrainedRun:
    """The run as its method examines it."""
    return TrainedRun(
        config=settings.config,
        task=program.task,
        replicas=program.replicas,
        normalize=program.normalize,
        dataset=program.images.source.name,
        class_names=program.images.source.class_names,
        test_labels=program.images.splits["test"].labels,
        variables=variables,
        totals=totals,
        test_outputs=lambda predict, variables: program.outputs(predict, variables, "test"),
        test_scores=program.test_scores,
    )


def with_averages(
    program: Program, directory: RunDirectory, best_step: int, variables: Variables
) -> Variables:
    """Variables of a checkpoint with the averages of its weights in their place."""
    like = {
        "params": {name: program.variables["params"][name] for name in program.trained},
        "batch_stats": program.variables["batch_stats"],
    }
    of_best = saving.restore_averages(directory.checkpoints, best_step, like)
    return {
        **variables,
        "params": {**variables["params"], **of_best["params"]},
        "batch_stats": of_best["batch_stats"],
    }


def write_compact(
    program: Program, directory: RunDirectory, best_step: int, variables: Variables, card: Card
) -> None:
    """Save a result that is not what was trained as it is; prediction prefers it.

    Args:
        program: of the run.
        directory: of the run.
        best_step: number of the checkpoint that it comes from.
        variables: what the card says.
        card: what prediction needs beside them.
    """
    score = checkpoints.read_meta(directory.checkpoints, best_step)["score"]
    with program.replicas.fail_together():
        saver = checkpoints.Checkpoints(directory.compact, writable=program.replicas.is_primary)
        saver.save(best_step, {"variables": variables}, card.to_json(), score=score)
        saver.close()


def label_unlabelled(program: Program, variables: Variables, directory: RunDirectory) -> None:
    """Write ``predictions-SPLIT.csv`` of every split without labels, if asked for."""
    images = program.images
    for split, arrays in images.unlabelled.items():
        feed = create_feed(arrays, program.replicas, resident=False, steps_per_dispatch=1)
        labels = program.predict(variables, feed, len(arrays.labels)).argmax(1).tolist()
        names = [images.source.unlabelled[split].names[i] for i in arrays.kept]
        table = tables.predictions_csv(names, labels, images.class_names)
        directory.write_file(f"predictions-{split}.csv", table.encode())


def write_tested(program: Program, outputs: np.ndarray, directory: RunDirectory, card: Card) -> None:
    """Write ``predictions-test.csv``: every test image with what it is and what the network says; not for retrieval.

    Where the test split of a data set has no labels, its images stand in that file, and others are tested.

    Args:
        program: of the run.
        outputs: of the test images.
        directory: of the run.
        card: with what was fitted to the validation images.
    """
    if program.task.name == "retrieval" or "test" in program.images.source.unlabelled:
        return
    images, test = program.images, program.images.splits["test"]
    names = [images.source.splits["test"].names[place] for place in test.kept]
    values, class_names = assessment.predicted_values(card, outputs), images.class_names
    if card.task == "regression":
        table = predictions.tested_values_csv(names, test.labels, values, class_names)
    elif card.task == "multilabel":
        present = values >= assessment.thresholds_of(card)
        table = predictions.tested_labels_csv(names, test.labels, values, present, class_names)
    else:
        table = predictions.tested_csv(names, test.labels, values, class_names)
    directory.write_file("predictions-test.csv", table.encode("utf-8", "surrogateescape"))


def run_result(
    program: Program,
    settings: Settings,
    summary: Mapping[str, Any],
    rows: Rows,
    passes: Rows,
    outputs: np.ndarray,
    gallery: np.ndarray | None,
    findings: Findings,
    card: Card,
) -> RunResult:
    """What the report of a run is made from.

    Args:
        program: of the run.
        settings: of the run.
        summary: of ``summary.summarise``.
        rows: of ``metrics.csv``.
        passes: of ``passes.csv``.
        outputs: of the test images.
        gallery: outputs of what is searched, where that is another split.
        findings: of the method.
        card: with what was fitted to the validation images.
    """
    return dataclasses.replace(
        report.begin(program, settings),
        rows=rows,
        passes=passes,
        summary=summary,
        test=report.tested(program, card, outputs, gallery),
        pictures=findings.draw(),
        files=findings.files,
    )
