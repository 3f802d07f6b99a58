"""What fine-tuning must beat: how far the features of a run's start go by themselves, on the same images.

Nothing of the run depends on it. Its training images go through the pretrained network once, and a linear probe and
the nearest neighbours are fitted to their features; for retrieval the features are searched as they are.
"""

import functools
import time
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import transferability
from finetune_jax.devices.replicas import Replicas
from finetune_jax.models.network import Network
from finetune_jax.models.normalization import normalizer
from finetune_jax.runs.program import Program
from finetune_jax.training.evaluation import Evaluation, batch_size_for, compile_evaluation, of_centre
from finetune_jax.training.rehearsal import Chosen

MOST = 5000
"""Training images that probes learn from at most."""

PROBES = {"ridge": transferability.ridge_predictions, "neighbours": transferability.neighbour_predictions}
"""``{name: probe}`` of classification."""

# Runs in lockstep share a program, and their features.
_PROBE_ENTRIES: weakref.WeakKeyDictionary[Program, dict[str, Any]] = weakref.WeakKeyDictionary()

_STREAM = 2**63 + 1  # beside the epochs and what rehearsals leave out


def has_one(program: Program) -> bool:
    """Whether there is something to measure: pretrained weights, classes, and all of both in one place."""
    config = program.images.config
    return (
        config.probe
        and program.method.from_pretrained
        and config.pretrained != "none"
        and not program.placement.in_shares
        and program.images.division is None
        and program.task.name in ("classification", "retrieval")
    )


def scores(program: Program) -> dict[str, Any]:
    """The entry ``probe`` of ``summary.json``; all processes must ask, and the first one gets it.

    Args:
        program: of a run that :func:`has_one`.

    Returns:
        ``{"ridge": {"test_accuracy": …}, "neighbours": {…}, "images": learned from, "seconds": …}``, or for retrieval
        ``{"frozen": {"test_recall_at_1": …, …}, "seconds": …}``; with those of the validation images if there are any.
        Empty on the other processes, and where a feature is not finite.
    """
    if program not in _PROBE_ENTRIES:
        _PROBE_ENTRIES[program] = _scores(program)
    return _PROBE_ENTRIES[program]


def _scores(program: Program) -> dict[str, Any]:
    began = time.monotonic()
    splits = program.images.splits
    retrieval = program.task.name == "retrieval"
    measured = [name for name in ("validation", "test", "gallery") if name in program.images.feeds]
    features = {name: _features(program, name) for name in measured}
    chosen = _chosen(len(splits["train"].labels), program.images.config.seed)
    learned = None if retrieval else _features(program, "train", chosen)
    every = [*features.values(), *([] if learned is None else [learned])]
    if not program.replicas.is_primary or not all(np.isfinite(rows).all() for rows in every):
        return {}
    entry: dict[str, Any] = {}
    if learned is None:
        entry["frozen"] = _searched(program, features)
    else:
        labels = splits["train"].labels[chosen]
        for name, probe in PROBES.items():
            entry[name] = {
                f"{split}_accuracy": float((probe(learned, labels, rows) == splits[split].labels).mean())
                for split, rows in features.items()
                if split != "gallery"
            }
        entry["images"] = len(chosen)
    return {**entry, "seconds": round(time.monotonic() - began, 3)}


def _searched(program: Program, features: dict[str, np.ndarray]) -> dict[str, float]:
    splits = program.images.splits
    retrieval_scores: dict[str, float] = {}
    for split in ("validation", "test"):
        if split in features:
            gallery = None
            if split == "test" and "gallery" in features:
                gallery = features["gallery"], splits["gallery"].labels
            retrieval_scores |= program.task.scores(features[split], splits[split].labels, split, gallery)
    return retrieval_scores


def _chosen(count: int, seed: int) -> np.ndarray:
    """Indices of the training images to learn from, ascending."""
    rng = np.random.Generator(np.random.Philox(key=[seed, _STREAM]))
    return np.sort(rng.permutation(count)[:MOST])


def _features(program: Program, split: str, chosen: np.ndarray | None = None) -> np.ndarray:
    start, card = program.start, program.card
    counts = {name: min(len(arrays.labels), MOST) for name, arrays in program.images.splits.items()}
    compute = _compiled(
        start.network,
        card.mean,
        card.std,
        program.replicas,
        program.images.image_size,
        program.task.name,
        batch_size_for(*counts.values()),
    )
    feed: Any = program.images.feeds[split]
    count = len(program.images.splits[split].labels)
    if chosen is not None:
        feed, count = Chosen(feed, chosen), len(chosen)
    return np.asarray(compute(program.replicas.replicate(start.variables), feed, count))


@functools.lru_cache(maxsize=4)
def _compiled(
    network: Network,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    replicas: Replicas,
    size: int,
    task: str,
    batch_size: int,
) -> Evaluation:
    """Features ``[N, D]``; for retrieval summed over the image and its mirror, as trained networks are tested."""
    normalize = normalizer(mean, std)

    def features(variables: Any, images: jax.Array) -> jax.Array:
        seen = normalize(images)
        if task != "retrieval":
            return network.embed(variables, seen)
        return network.embed(variables, seen) + network.embed(variables, jnp.flip(seen, 2))

    return compile_evaluation(of_centre(features, size), replicas, batch_size)
