"""The figures of one run, chosen by what it did."""

from collections.abc import Sequence

import numpy as np

from finetune_jax.algorithms import policies, retrieval
from finetune_jax.data.feeds import Arrays
from finetune_jax.reports import figures
from finetune_jax.reports.run_result import Rows
from finetune_jax.reports.study_report import Picture

_QUERIES, _NEIGHBOURS = 8, 8


def of_blocks(passes: Rows) -> list[Picture]:
    """How far every block moved, and where trials were rejected also trial by trial.

    Args:
        passes: of ``passes.csv``.
    """
    if not passes:
        return []
    blocks = [name.removeprefix("variation/") for name in passes[0] if name.startswith("variation/")]
    if len(blocks) < 2:
        return []
    variations = _numbers(passes, [f"variation/{name}" for name in blocks])
    accepted = np.array([row["accepted"] == "1" for row in passes])
    pictures = []
    if passes[0]["threshold"]:
        figure = figures.draw_trials(
            variations,
            _numbers(passes, [f"rate/{name}" for name in blocks]),
            [(int(row["epoch"]), int(row["trial"])) for row in passes],
            accepted,
        )
        caption = (
            "AutoLR's trials: above, how far the weights of each block moved per weight (L2 norm over number of "
            "weights); below, the learning rates it was trained with. A pass whose blocks do not move further the "
            "higher they are is rejected, on grey, and repeated with other rates."
        )
        pictures.append(Picture("trials", caption, figure))
    if accepted.any():
        caption = (
            "How far the weights of each block moved in each epoch (L2 norm over number of weights): what AutoLR "
            "arranges by their height in the network."
        )
        pictures.append(Picture("variations", caption, figures.draw_variations(variations[accepted])))
    return pictures


def block_rates_differ(passes: Rows) -> bool:
    """Whether blocks learn at different rates, so that their variations say something."""
    return any(len({row[name] for name in row if name.startswith("rate/block_")}) > 1 for row in passes)


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
    strips = figures.draw_retrieval_strips(
        images.images[queries],
        np.stack([searched.images[row] for row in neighbours]),
        similarities,
        labels == images.labels[queries, None],
        query_names=[class_names[label] for label in images.labels[queries]],
        neighbour_names=names,
    )
    caption = (
        "Test images and their nearest neighbours with the cosine similarity: blue, solid and ticked where the class "
        "is the same, orange-red, dashed and crossed where it is not."
    )
    return [Picture("neighbours", caption, strips)]


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
            "Share of test images that take the fine-tuned copy of each block, in all and per class.",
            figures.draw_policy_usage(usage, blocks),
        ),
        Picture(
            "policy_counts",
            "Test images by their number of fine-tuned blocks.",
            figures.draw_policy_counts(counts),
        ),
    ]


def _numbers(rows: Rows, columns: Sequence[str]) -> np.ndarray:
    return np.array([[float(row[name]) for name in columns] for row in rows])
