"""The figures of one run, chosen by what it did; each a name, a caption and a PNG."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.algorithms import metrics, policies, retrieval
from finetune_jax.data.feeds import Arrays
from finetune_jax.reports import figures
from finetune_jax.reports.run_result import Classified, Rows, RunResult

_QUERIES, _NEIGHBOURS = 8, 8


class Picture(NamedTuple):
    """A figure of a run; the name is that of its file, without suffix."""

    name: str
    caption: str
    png: bytes


def of_run(result: RunResult) -> list[Picture]:
    """All figures of a run that has ended."""
    assert result.summary is not None
    pictures = of_training(result.rows, result.passes, result.summary["best_epoch"], result.score)
    if isinstance(result.test, Classified):
        pictures += of_classification(result.test.logits, result.test.labels, result.test.class_names)
    elif result.test is not None:
        retrieved = result.test
        pictures += of_retrieval(
            retrieved.embeddings, retrieved.images, retrieved.class_names, retrieved.gallery
        )
    if result.policy is not None:
        policy = result.policy
        pictures += of_policy(
            policy.decisions, policy.labels, policy.class_names, policy.blocks, policy.dataset
        )
    return pictures


def of_training(rows: Rows, passes: Rows, best_epoch: int, score: str) -> list[Picture]:
    """Curves over epochs; variations per block, and where trials were rejected also trial by trial.

    Args:
        rows: of ``metrics.csv``.
        passes: of ``passes.csv``.
        best_epoch: the one chosen.
        score: name of what is drawn beside the loss, without its split.
    """
    curves = figures.training_curves(rows, best_epoch, score)
    pictures = [Picture("training", "Loss and score per epoch; the dotted line is the epoch chosen", curves)]
    blocks = [name.removeprefix("variation/") for name in passes[0] if name.startswith("variation/")]
    if len(blocks) < 2:
        return pictures
    variations = _numbers(passes, [f"variation/{name}" for name in blocks])
    accepted = np.array([row["accepted"] == "1" for row in passes])
    caption = "How far each block moved in each epoch, ‖Δw‖ / n"
    pictures.append(Picture("variations", caption, figures.variations(variations[accepted])))
    if passes[0]["threshold"]:
        picture = figures.trials(
            variations,
            _numbers(passes, [f"rate/{name}" for name in blocks]),
            [(int(row["epoch"]), int(row["trial"])) for row in passes],
            accepted,
        )
        caption = "Variations and learning rates of every trial; rejected ones stand on grey"
        pictures.append(Picture("trials", caption, picture))
    return pictures


def of_classification(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> list[Picture]:
    """The confusion matrix of test logits ``[N, C]``."""
    matrix = metrics.confusion_matrix(logits.argmax(1), labels, len(class_names))
    return [
        Picture("confusion", "Confusion matrix of the test images", figures.confusion(matrix, class_names))
    ]


def of_retrieval(
    embeddings: np.ndarray,
    images: Arrays,
    class_names: Sequence[str],
    gallery: tuple[np.ndarray, Arrays] | None = None,
) -> list[Picture]:
    """A few test images, evenly spread over the split, and their nearest neighbours.

    Args:
        embeddings: ``[N, D]`` of the test images.
        images: the test images.
        class_names: of all their labels.
        gallery: embeddings and images of what is searched, None for the test images themselves.
    """
    count = len(images.labels)
    queries = np.unique(np.linspace(0, count - 1, min(_QUERIES, count)).round().astype(int))
    searched = images if gallery is None else gallery[1]
    neighbours = np.zeros((len(queries), 0), int)
    similarities = np.zeros((len(queries), 0))
    if gallery is not None:
        neighbours, similarities = retrieval.nearest(embeddings[queries], _NEIGHBOURS, gallery=gallery[0])
    elif count > 1:
        # The image itself is among what is searched: one more is asked for, and it is left out.
        more, values = retrieval.nearest(embeddings[queries], _NEIGHBOURS + 1, gallery=embeddings)
        others = more != queries[:, None]
        others[others.all(1), -1] = False
        neighbours = more[others].reshape(len(queries), -1)
        similarities = values[others].reshape(len(queries), -1)
    if not neighbours.shape[1]:
        return []
    labels = searched.labels[neighbours]
    names = [[class_names[label] for label in row] for row in labels]
    strips = figures.retrieval_strips(
        images.images[queries],
        np.stack([searched.images[row] for row in neighbours]),
        similarities,
        labels == images.labels[queries, None],
        query_names=[class_names[label] for label in images.labels[queries]],
        neighbour_names=names,
    )
    return [Picture("neighbours", "Test images and their nearest neighbours", strips)]


def of_policy(
    decisions: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    blocks: Sequence[str],
    dataset: str,
) -> list[Picture]:
    """Which blocks a policy fine-tunes, and how many (SpotTune, Figures 3 and 4).

    Args:
        decisions: ``[N, L]`` of the test images.
        labels: ``[N]`` of them.
        class_names: of all labels.
        blocks: names of the ``L`` routed blocks.
        dataset: its name.
    """
    usage = {"all": decisions.mean(0), **policies.usage_per_class(decisions, labels, class_names)}
    counts = {dataset: policies.tuned_block_counts(decisions)}
    return [
        Picture(
            "policy_usage",
            "Share of test images that take the fine-tuned copy of each block",
            figures.policy_usage(usage, blocks),
        ),
        Picture(
            "policy_counts", "Test images by their number of fine-tuned blocks", figures.policy_counts(counts)
        ),
    ]


def _numbers(rows: Rows, columns: Sequence[str]) -> np.ndarray:
    return np.array([[float(row[name]) for name in columns] for row in rows])
