"""What the report of a run is made from: what the network saw, its photos, and a page while the run goes on."""

import contextlib
import dataclasses
import importlib.metadata
import platform
import shlex
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.config.named_recipes import unchanged
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import pixels
from finetune_jax.data.cache import Arrays
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import Card
from finetune_jax.models.weights import installed
from finetune_jax.reports import examples, run_page
from finetune_jax.reports.run_result import Classified, Labelled, Measured, Retrieved, RunResult, Tested
from finetune_jax.runs import assessment, recorded_data
from finetune_jax.runs.chosen_rate import Settings
from finetune_jax.runs.program import Program
from finetune_jax.training.plan import AfterEpoch

_LIBRARIES = ("finetune-jax", "jax", "flax", "optax", "numpy")
_SHARE_OF_TIME = 0.05
"""Writing pages takes at most this share of a run; the page of the first epoch is always written."""


def begin(program: Program, settings: Settings) -> RunResult:
    """The report of a run before its first epoch."""
    return RunResult(
        flags=dataclasses.asdict(settings.flags),
        score=program.task.score,
        rows=[],
        passes=[],
        seen=seen(program, settings.config),
        training_images=pixels.shown(program.images.augmented_examples),
        command=command_of(settings.flags),
        versions=versions(),
        data_digest=str(recorded_data.resolved(program.images.source).get(recorded_data.DIGEST, "")),
        formats=settings.flags.figures,  # type: ignore[arg-type]
        image_size=program.images.image_size,
        photo_size=int(np.median(program.images.splits["train"].sizes.min(1))),
        larger_weights=installed.present(),
    )


def after_each_epoch(
    program: Program, settings: Settings, directory: RunDirectory, after_epoch: AfterEpoch | None
) -> AfterEpoch:
    """A callback that rewrites ``report.html``, then calls ``after_epoch``.

    Where epochs are so short that pages would take more than a twentieth of the time, some have none.
    """
    if not (program.replicas.is_primary and settings.flags.report):
        return after_epoch or (lambda row: None)
    began: list[RunResult] = []
    next_page = 0.0

    def callback(row: Mapping[str, Any]) -> None:
        nonlocal next_page
        start = time.monotonic()
        if start >= next_page:
            began[:] = began or [begin(program, settings)]
            result = dataclasses.replace(
                began[0], rows=directory.read_metrics(), passes=directory.read_passes()
            )
            for name, content in run_page.files(result).items():
                directory.write_file(name, content)
            end = time.monotonic()
            next_page = end + (end - start) / _SHARE_OF_TIME
        if after_epoch is not None:
            after_epoch(row)

    return callback


def tested(program: Program, card: Card, outputs: np.ndarray, gallery: np.ndarray | None) -> Tested:
    """The test images and what the network says of them; of the notable ones the photos as they were read.

    Args:
        program: of the run.
        card: with what was fitted to the validation images.
        outputs: of the test images.
        gallery: outputs of what is searched, where that is another split.
    """
    images = program.images
    test = as_shown(images.splits["test"])
    if program.task.name == "retrieval":
        searched = None if gallery is None else (gallery, as_shown(images.splits["gallery"]))
        return Retrieved(outputs, test, images.source.class_names, searched)
    read = images.source.splits["test"]
    names = [read.names[place] for place in test.kept]
    values, plain = assessment.predicted_values(card, outputs), dataclasses.replace(card, temperature=1.0)
    if card.task == "multilabel":
        thresholds = assessment.thresholds_of(card)
        uncalibrated = assessment.predicted_values(plain, outputs)
        return Labelled(values, test.labels, thresholds, images.class_names, uncalibrated, names, test.images)
    if card.task == "regression":
        return Measured(values, test.labels, images.class_names, names, test.images)
    logits, temperature = outputs, card.temperature
    if card.task == "ordinal":
        logits, temperature = np.log(np.maximum(values, 1e-30)), 1.0
    photos = {}
    for place in map(int, np.concatenate(examples.notable(logits, test.labels))):
        # What cannot be read any more is shown as the network saw it.
        with contextlib.suppress(UserError, OSError):
            photos[place] = pixels.shown(read.read(int(test.kept[place])))
    return Classified(logits, test.labels, images.class_names, names, test.images, photos, temperature)


def as_shown(arrays: Arrays) -> Arrays:
    """Images of any channels as people see them."""
    if arrays.images.shape[-1] == 3:
        return arrays
    if isinstance(arrays.images, np.ndarray):
        return dataclasses.replace(arrays, images=pixels.shown(arrays.images))
    return dataclasses.replace(arrays, images=arrays.images.mapped(pixels.shown))


def seen(program: Program, config: FinetuneConfig) -> dict[str, str]:
    """The images as the network sees them, ``{what: how}``."""
    prepared, images = program.card.preprocessing, program.images
    side = f"{prepared.image_size} × {prepared.image_size}"
    whole = "the whole image stretched" if prepared.mode == "stretch" else "proportions kept"
    cut = "" if prepared.resize == prepared.image_size else f", the middle of {prepared.resize}"
    return {
        "network": f"{program.method.network.architecture}, {len(program.method.network.blocks)} blocks",
        "weights": "none" if config.method == "scratch" else config.pretrained,
        "pixels": f"{side}, {whole}{cut}",
        "augmentation": images.augmentation,
        "normalisation": f"mean {_numbers(program.card.mean)}, deviation {_numbers(program.card.std)}",
        "images": ", ".join(
            f"{len(arrays.labels):,} {split}" for split, arrays in images.splits.items() if len(arrays.labels)
        ),
        "classes": f"{len(images.class_names):,}",
    }


def command_of(flags: FinetuneConfig) -> str:
    """The command that makes this run: the flags that differ from what it has by default."""
    defaults = unchanged(flags)
    words = ["finetune-jax", "finetune"]
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if value == getattr(defaults, field.name):
            continue
        if isinstance(value, bool):
            words.append(f"--{field.name}" if value else f"--no{field.name}")
        else:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{field.name}={shown}")
    return shlex.join(words)


def versions() -> dict[str, str]:
    """``{library: version}`` of what decides numbers."""
    library_versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            library_versions[name] = importlib.metadata.version(name)
    return library_versions


def _numbers(values: Any) -> str:
    return " ".join(f"{float(value):.3g}" for value in np.atleast_1d(np.asarray(values)))
