"""The Visual Decathlon: one run for each of its data sets, their score, and the file its server marks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.algorithms import decathlon
from finetune_jax.algorithms.decathlon import score_of
from finetune_jax.config.checks import without_idle_settings
from finetune_jax.config.recipes import RECIPES
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.decathlon_annotations import Annotations
from finetune_jax.errors import Diverged, UserError
from finetune_jax.studies.comparison import Train
from finetune_jax.studies.progress import Progress


def recipe(dataset: str, method: str = "spottune") -> FinetuneConfig:
    """SpotTune's recipe for a data set, for any method: with what its own paper has, without what has no effect."""
    settings = {**decathlon.settings(dataset), **RECIPES.get(method, {}), "method": method}
    return without_idle_settings(FinetuneConfig(**settings))


def configs(
    base: FinetuneConfig, names: Sequence[str], *, given: Sequence[str] = ()
) -> dict[str, FinetuneConfig]:
    """The config of each data set, but for its directory.

    Args:
        base: what all of them share.
        names: of data sets.
        given: names of the fields that the user has set, which the recipe does not change.

    Raises:
        UserError: no data set, an unknown one, or one named twice.
    """
    unknown = sorted(set(names) - set(decathlon.DATASETS))
    if unknown or not names or len(set(names)) < len(names):
        raise UserError(
            f"--datasets={','.join(names)}: give some of {', '.join(decathlon.DATASETS)}, none twice"
        )
    of_datasets = {}
    for name in decathlon.DATASETS:
        if name in names:
            by_recipe = recipe(name, base.method)
            changed = {
                field: getattr(by_recipe, field) for field in decathlon.OF_DATASET if field not in given
            }
            of_datasets[name] = dataclasses.replace(base, workdir="", **changed)
    return of_datasets


def run(
    of_datasets: Mapping[str, FinetuneConfig], train: Train, progress: Progress | None = None
) -> dict[str, Any]:
    """Train on every data set, and put the results together.

    Args:
        of_datasets: of :func:`configs`.
        train: trains one config.
        progress: is told of every run.

    Returns:
        JSON: ``method``; ``entries``, one per data set with its ``accuracy`` in percent (None where training
        diverged); ``missing`` data sets; ``score`` over those that have an accuracy, ``complete`` if they are all;
        ``multiple``, see ``decathlon.parameter_multiple``, None where everything diverged.
    """
    progress = progress or Progress()
    progress.expect(len(of_datasets))
    entries: list[dict[str, Any]] = []
    for name, config in of_datasets.items():
        progress.begin(name)
        try:
            summary = train(config, name)
        except Diverged:  # the others count all the same; the message is printed where it happened
            entries.append({"dataset": name, "accuracy": None})
            continue
        entries.append(
            {
                "dataset": name,
                "accuracy": 100 * summary["test_accuracy"],
                "images": summary["images"],
                "notes": summary["notes"],
                "epochs": summary["epochs_trained"],
                "seconds": summary["seconds"],
                "parameters": unshared_parameters(summary),
                "network_parameters": network_parameters(summary),
            }
        )
    measured = {entry["dataset"]: entry for entry in entries if entry["accuracy"] is not None}
    multiple = None
    if measured:
        network = next(iter(measured.values()))["network_parameters"]
        parameters = {name: entry["parameters"] for name, entry in measured.items()}
        multiple = decathlon.parameter_multiple(network, parameters)
    return {
        "method": next(iter(of_datasets.values())).method,
        "entries": entries,
        "missing": [name for name in decathlon.DATASETS if name not in measured],
        "score": score_of({name: entry["accuracy"] for name, entry in measured.items()}),
        "multiple": multiple,
    }


def network_parameters(summary: Mapping[str, Any]) -> int:
    """Parameters of a run's plain network without its head."""
    sizes = summary["parameters_of_parts"]
    return sum(size for name, size in sizes.items() if name == "stem" or name.startswith("block_"))


def unshared_parameters(summary: Mapping[str, Any]) -> int:
    """Parameters, but for the head, that a run does not share with the pretrained network."""
    sizes = summary["parameters_of_parts"]
    # Of the global policy only the chosen blocks are left.
    parts = summary.get("tuned_blocks") or summary["trained_parts"]
    return sum(sizes[name] for name in parts if name != "head")


def submission(
    predictions: Mapping[str, Mapping[str, int]], annotations: Mapping[str, Annotations]
) -> list[dict[str, int]]:
    """What the server of the challenge takes as ``results.json``.

    Args:
        predictions: ``{data set: {file name: label}}`` of the test images.
        annotations: of the same data sets.

    Returns:
        One ``{"image_id": …, "category_id": …}`` per image, as in COCO's results.

    Raises:
        UserError: images without prediction, or predictions of images that are not in the annotations.
    """
    results = []
    for dataset, labels in predictions.items():
        known = annotations[dataset]
        missing, unknown = known.image_ids.keys() - labels.keys(), labels.keys() - known.image_ids.keys()
        if missing or unknown:
            example = min(missing or unknown)
            raise UserError(
                f"{dataset}: {len(missing)} test images of the annotations are not predicted and {len(unknown)} "
                f"predicted ones are not in them (e.g. {example}): data and --annotations are of different versions"
            )
        results += [
            {"image_id": number, "category_id": known.category_ids[labels[file]]}
            for file, number in known.image_ids.items()
        ]
    return results
