"""What a report of a run is made from: plain values and arrays, while the run goes on or when it has ended."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.data.feeds import Arrays

Rows = Sequence[Mapping[str, str]]
"""Rows of a CSV file, as text."""


@dataclasses.dataclass(frozen=True)
class Classified:
    """Test images and what the network says of them.

    Attributes:
        logits: ``[N, C]``.
        labels: ``[N]``, columns of ``logits``.
        class_names: ``C`` names.
    """

    logits: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """Test images and what is found for them.

    Attributes:
        embeddings: ``[N, D]`` of the test images.
        images: the test images.
        class_names: of all labels.
        gallery: embeddings and images of what is searched; None searches the test images themselves.
    """

    embeddings: np.ndarray
    images: Arrays
    class_names: Sequence[str]
    gallery: tuple[np.ndarray, Arrays] | None = None


@dataclasses.dataclass(frozen=True)
class PolicyDecisions:
    """Which copy of each block a policy takes for each test image.

    Attributes:
        decisions: ``[N, L]`` of 0 (frozen) and 1 (fine-tuned).
        labels: ``[N]``.
        class_names: of all labels.
        blocks: ``L`` names of the routed blocks.
        dataset: name of the data set.
    """

    decisions: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    blocks: Sequence[str]
    dataset: str


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A run as far as it has come.

    Attributes:
        flags: its settings, by name.
        score: name of the score without its split, e.g. ``accuracy``.
        rows: of ``metrics.csv``.
        passes: of ``passes.csv``.
        summary: content of ``summary.json``; None while the run goes on.
        test: its test images, once they have been looked at.
        policy: decisions on the test images; None for methods without a policy.
    """

    flags: Mapping[str, Any]
    score: str
    rows: Rows
    passes: Rows
    summary: Mapping[str, Any] | None = None
    test: Classified | Retrieved | None = None
    policy: PolicyDecisions | None = None
