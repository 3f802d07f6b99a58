"""Measuring a finished run on a split: classification scores, or retrieval by its embeddings."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import metrics
from finetune_jax.config.settings import DataConfig
from finetune_jax.data import record, split_rules
from finetune_jax.data.examples import Source
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.models.normalization import normalizer
from finetune_jax.runs import recorded_data
from finetune_jax.training import evaluation, tasks


def measure(
    run: Path,
    config: DataConfig,
    replicas: Replicas,
    *,
    split: str,
    protocol: str,
    current_folder: bool = False,
    include_trained: bool = False,
    views: str = "one",
) -> dict[str, Any]:
    """Scores of a run's best checkpoint.

    Where the config is that of the run, a split is the run's own: the images that it had, whatever has come to the
    folder since.

    Args:
        run: its directory.
        config: the data to measure on, and the ``ks`` of Recall@K; images are prepared as the run's checkpoint
            says.
        replicas: the devices to run on.
        split: ``train``, ``validation`` or ``test``.
        protocol: ``classification`` or ``retrieval``; it may differ from the one the data are split for.
        current_folder: whether to measure on the data as they are now, divided anew.
        include_trained: whether images that the run was trained on may be among those of another split.
        views: of every image, over which logits are averaged; see ``config.choices.VIEWS``.

    Returns:
        JSON: ``scores`` by name, and for classification recall, counts and confusions per class.

    Raises:
        UserError: no such run, or the data does not go with it.
    """
    card, variables = read_best(run)
    source, recorded = data_of_run(run, config, silent=not replicas.is_primary, anew=current_folder)
    if split != "train" and not include_trained:
        _refuse_trained(source, recorded, split, current_folder)
    network = card.model()
    normalize = normalizer(card.mean, card.std)
    variables = replicas.replicate(variables)
    if protocol == "classification" and card.head == "embedding":
        raise UserError(f"--run={run} learned embeddings and no classifier; use --protocol=retrieval")
    if protocol == "retrieval" and views != "one":
        raise UserError(
            f"--views={views} is for --protocol=classification; embeddings have views of their own"
        )
    preprocessing = evaluation.preprocessing_for(views, card.preprocessing)
    part = evaluation.embedder if protocol == "retrieval" else evaluation.classifier
    function = evaluation.over_views(part(network, normalize), views, card.preprocessing.image_size)
    run_network = evaluation.compile_evaluation(function, replicas)

    def outputs_of(split: str) -> tuple[np.ndarray, np.ndarray]:
        arrays = datasets.materialise_split(
            config,
            source.splits[split],
            preprocessing,
            silent=not replicas.is_primary,
            title=f"decoding {split} images",
        )
        if not len(arrays.labels):
            raise UserError(f"--split={split} of {source.name} has no images")
        resident = arrays.images.nbytes <= config.device_data_gb * 1e9
        feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
        return run_network(variables, feed, len(arrays.labels)), arrays.labels

    outputs, labels = outputs_of(split)
    result = {"run": str(run), "dataset": source.name, "split": split, "images": len(labels)}
    if views != "one":
        result["views"] = views
    if now := record.record_of(source):
        result["data_digest"] = now.digest
    if protocol == "retrieval":
        gallery = outputs_of("gallery") if split == "test" and "gallery" in source.splits else None
        return {**result, "scores": tasks.retrieval_scores(config, outputs, labels, gallery)}
    labels = labels_of_run(labels, source, card.class_names)
    return {**result, **classification_details(outputs, labels, card.class_names)}


def data_of_run(
    run: Path, config: DataConfig, *, silent: bool, anew: bool
) -> tuple[Source, record.Record | None]:
    """The data to measure on, with the run's own splits where they are asked for, and the run's record.

    Raises:
        UserError: images of the run are gone or have changed.
    """
    known = recorded_data.read(run)
    of_run = data_config_of(run)
    same = all(getattr(config, name) == getattr(of_run, name) for name in recorded_data.DIVIDING)
    rule = None if anew else split_rules.BY_COUNT if known is None else known.split_rule
    source = datasets.load_source(config, silent=silent, split_rule=rule)
    now = record.record_of(source)
    if known is None or now is None or anew or not same or now.digest == known.digest:
        return source, known
    splits, changes = {}, ""
    for name in known.splits:
        splits[name], changes = record.restored(known, source, name)
    if not silent:
        print(
            f"note: {changes}; measured are the images of the run (--current_folder measures on all)",
            file=sys.stderr,
        )
    return dataclasses.replace(source, class_names=known.class_names, splits=splits), known


def _refuse_trained(source: Source, known: record.Record | None, split: str, current_folder: bool) -> None:
    """Refuse to measure on images that the run was trained on as if it had not seen them.

    Raises:
        UserError: says how many, and names one.
    """
    if not current_folder or split not in source.splits:
        return
    if known is None:
        raise UserError(
            "the run is from before runs recorded their images, so --current_folder cannot tell which of them it was "
            "trained on; leave it out, or give --include_trained"
        )
    examples = source.splits[split]
    trained = record.trained_on(known, examples)
    if trained.any():
        raise UserError(
            f"the run was trained on {int(trained.sum())} of the {len(examples)} {split} images of {source.name} as "
            f"they are divided now, e.g. {examples.names[int(trained.argmax())]}; leave --current_folder out to "
            "measure on the run's own split, or give --include_trained"
        )


def labels_of_run(labels: np.ndarray, source: Source, class_names: tuple[str, ...]) -> np.ndarray:
    """The data set's labels ``[N]`` as class numbers of the run, matched by name.

    Raises:
        UserError: the data has classes the run does not know.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    present = [source.class_names[label] for label in np.unique(labels)]
    unknown = [name for name in present if name not in numbers]
    if unknown:
        raise UserError(
            f"the run does not know the classes {', '.join(unknown[:10])} of {source.name}; "
            f"it knows {', '.join(class_names[:10])}; use --protocol=retrieval for other classes"
        )
    translation = np.array([numbers.get(name, -1) for name in source.class_names], np.int32)
    return translation[labels]


def classification_details(
    logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> Mapping[str, Any]:
    """Scores, and per class with images: their number, recall, and the two classes most often predicted instead."""
    confusion = metrics.confusion_matrix(logits.argmax(1), labels, len(class_names))
    recalls = metrics.per_class_recall(confusion)
    counts = confusion.sum(1)
    present = np.flatnonzero(counts)
    return {
        "scores": {
            "accuracy": metrics.accuracy(logits, labels),
            "balanced accuracy": metrics.balanced_accuracy(confusion),
            "cross-entropy": metrics.cross_entropy(logits, labels),
        },
        "images_per_class": {class_names[i]: int(counts[i]) for i in present},
        "recall_per_class": {class_names[i]: float(recalls[i]) for i in present},
        "confused_with": {class_names[i]: _confusions(confusion[i], int(i), class_names) for i in present},
        "confusion": confusion.tolist(),
    }


def _confusions(row: np.ndarray, number: int, class_names: tuple[str, ...]) -> list[str]:
    others = [i for i in np.argsort(-row, kind="stable") if i != number and row[i]]
    return [f"{class_names[i]} ({row[i]})" for i in others[:2]]
