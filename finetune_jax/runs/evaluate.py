"""Measuring a finished run on a split: classification scores, or retrieval by its embeddings."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from finetune_jax.models.card import Card, read_best
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.reports import value_page
from finetune_jax.runs import assessment, recorded_data
from finetune_jax.training import evaluation, tasks

Config = TypeVar("Config", bound=DataConfig)


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
    calibrated: bool = True,
    network: tuple[Card, Variables] | None = None,
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
        calibrated: whether probabilities are those with the temperature of the run.
        network: card and variables of what is no run's but an adapter's, whose folder is ``run`` then.

    Returns:
        JSON: ``scores`` by name, and for classification recall, counts and confusions per class.

    Raises:
        UserError: no such run, or the data does not go with it.
    """
    card, variables = network or read_best(run)
    if not calibrated:
        card = dataclasses.replace(card, temperature=1.0)
    silent, recorded = not replicas.is_primary, None
    if network is None:
        source, recorded = data_of_run(run, config, silent=silent, anew=current_folder)
    else:
        source = datasets.load_source(config, silent=silent)
    if split != "train" and not include_trained:
        _refuse_trained(source, recorded, split, current_folder)
    model = card.model()
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
    function = evaluation.over_views(part(model, normalize), views, card.preprocessing.image_size)
    searched = (
        ["gallery"] if protocol == "retrieval" and split == "test" and "gallery" in source.splits else []
    )
    counts = [len(source.splits[name].labels) for name in (split, *searched)]
    run_network = evaluation.compile_evaluation(function, replicas, evaluation.batch_size_for(*counts))

    kept: dict[str, np.ndarray] = {}

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
        kept[split] = arrays.kept
        resident = arrays.images.nbytes <= config.device_data_gb * 1e9
        feed = create_feed(arrays, replicas, resident=resident, steps_per_dispatch=1)
        return run_network(variables, feed, len(arrays.labels)), arrays.labels

    outputs, labels = outputs_of(split)
    result: dict[str, Any] = {"run": str(run), "dataset": source.name, "split": split, "images": len(labels)}
    if views != "one":
        result["views"] = views
    if now := record.record_of(source):
        result["data_digest"] = now.digest
    if protocol == "retrieval" and labels.ndim == 2:
        raise UserError("--protocol=retrieval needs one class per image, and the run has other labels")
    if protocol == "retrieval":
        gallery = outputs_of("gallery") if searched else None
        return {**result, "scores": tasks.retrieval_scores(config, outputs, labels, gallery)}
    group_names = source.splits[split].group_names
    groups = None if group_names is None else [group_names[place] for place in kept[split]]
    labels = labels_for(card, labels, source)
    return {**result, **described(card, outputs, labels, groups)}


def described(
    card: Card, outputs: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """What outputs are worth: task, scores with intervals, and classes or groups one by one.

    Args:
        card: of the network.
        outputs: of it, ``[N, …]``.
        labels: class numbers of the card ``[N]``, or targets ``[N, D]``.
        groups: names of the images' groups.
    """
    details: Mapping[str, Any] = {}
    if card.task not in ("multilabel", "regression"):
        # Of grades what is most probable stands for the outputs, which are questions about them.
        shown = (
            outputs
            if card.task == "classification"
            else np.log(np.maximum(assessment.predicted_values(card, outputs), 1e-30))
        )
        details = classification_details(shown, labels, card.class_names)
    assessed = assessment.assess(card, outputs, labels, groups)
    names = {"balanced_accuracy": "balanced accuracy", "loss": "cross-entropy"}
    scores = {names.get(name, name): value for name, value in assessed.scores.items()}
    ends = {names.get(name, name): list(pair) for name, pair in assessed.intervals.items()}
    result: dict[str, Any] = {**details, "task": card.task}
    values = {**scores, **details.get("scores", {})}
    result["scores"] = values
    result["intervals"] = {name: ends[name] for name in values if name in ends}
    if card.task == "multilabel":
        rows = value_page.per_class(
            assessment.predicted_values(card, outputs),
            labels,
            assessment.thresholds_of(card),
            card.class_names,
        )
        result["per_class"] = {
            name: {column: None if value != value else value for column, value in row.items()}
            for name, row in rows.items()
        }
    if assessed.groups:
        result["groups"] = assessed.groups
    return result


def measure_all(
    run: Path, configs: Mapping[str, DataConfig], replicas: Replicas, **settings: Any
) -> dict[str, dict[str, Any]]:
    """:func:`measure` on several data sets, ``{data set: result}``.

    Args:
        run: its directory.
        configs: of each data set.
        replicas: the devices to run on.
        **settings: as of :func:`measure`.
    """
    return {name: measure(run, config, replicas, **settings) for name, config in configs.items()}


def of_data_set(config: Config, name: str) -> Config:
    """A config with another data set; what only tables have a meaning for stays with tables."""
    same_kind = name.partition(":")[0] == config.dataset.partition(":")[0]
    config = dataclasses.replace(config, dataset=name)
    if name.startswith("csv:") or same_kind:
        return config
    return dataclasses.replace(config, columns=(), image_root="", label_delimiter="", group_by="")


def labels_for(card: Card, labels: np.ndarray, source: Source) -> np.ndarray:
    """A data set's labels as a run's: class numbers int ``[N]``, or targets float ``[N, D]``, matched by name.

    Args:
        card: of the run.
        labels: of images of the data set.
        source: the data set.

    Raises:
        UserError: they are of another kind, or of classes that the run does not know.
    """
    if card.task in ("multilabel", "regression"):
        return targets_of_run(labels, source, card)
    if labels.ndim == 2:
        raise UserError(
            f"{source.name} has labels of the kind {source.task}, and the run learned {card.task}"
        )
    return labels_of_run(labels, source, card.class_names)


def targets_of_run(targets: np.ndarray, source: Source, card: Card) -> np.ndarray:
    """The data set's targets ``[N, D]`` in the order of the run's classes or numbers, matched by name.

    Raises:
        UserError: the data has others than the run, or labels of another kind.
    """
    if source.task != card.task:
        raise UserError(
            f"{source.name} has labels of the kind {source.task}, and the run learned {card.task}"
        )
    if len(card.class_names) == 1 == len(source.class_names):
        return targets
    places = {name: number for number, name in enumerate(source.class_names)}
    unknown = [name for name in source.class_names if name not in card.class_names]
    missing = [name for name in card.class_names if name not in places]
    if unknown or (missing and card.task == "regression"):
        raise UserError(
            f"{source.name} has the labels {', '.join(source.class_names[:10])}, and the run knows "
            f"{', '.join(card.class_names[:10])}; give columns of the same names"
        )
    none = np.zeros(len(targets), np.float32)
    return np.stack([targets[:, places[name]] if name in places else none for name in card.class_names], 1)


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
