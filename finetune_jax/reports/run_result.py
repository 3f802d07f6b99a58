"""What a report of a run is made from: plain values and arrays, while the run goes on or when it has ended."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.data.feeds import Arrays
from finetune_jax.reports.figures.canvas import Format
from finetune_jax.reports.study_report import Picture
from finetune_jax.reports.tables import Files

Rows = Sequence[Mapping[str, str]]
"""Rows of a CSV file, as text."""


@dataclasses.dataclass(frozen=True)
class Classified:
    """Test images and what the network says of them.

    Attributes:
        logits: ``[N, C]``.
        labels: ``[N]``, columns of ``logits``.
        class_names: ``C`` names.
        names: ``N`` names of the images, such as their files; empty where they have none.
        images: uint8 ``[N, H, W, 3]`` as the network sees them; None shows no images.
        photos: ``{place in the arrays: uint8 [h, w, 3]}`` at full resolution, of the images that
            ``examples.notable`` chooses; where one is missing, that of ``images`` is shown.
        temperature: fitted to the validation images; 1 where there were none.
    """

    logits: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    names: Sequence[str] = ()
    images: np.ndarray | None = None
    photos: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Test images of any number of classes each.

    Attributes:
        probabilities: ``[N, C]``.
        targets: ``[N, C]``, 0 and 1.
        thresholds: ``[C]``.
        class_names: ``C`` names.
        uncalibrated: probabilities without the temperature.
        names: ``N`` names of the images.
        images: uint8 ``[N, H, W, 3]`` as the network sees them.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    thresholds: np.ndarray
    class_names: Sequence[str]
    uncalibrated: np.ndarray
    names: Sequence[str] = ()
    images: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Test images and the numbers that are predicted of them.

    Attributes:
        values: ``[N, D]``.
        targets: ``[N, D]``.
        number_names: ``D`` names.
        names: ``N`` names of the images.
        images: uint8 ``[N, H, W, 3]`` as the network sees them.
    """

    values: np.ndarray
    targets: np.ndarray
    number_names: Sequence[str]
    names: Sequence[str] = ()
    images: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """Test images and their embeddings.

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


Tested = Classified | Retrieved | Labelled | Measured
"""The test images of a run, by its task."""


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
        pictures: what the method adds to the page.
        files: what the method adds to the directory.
        seen: ``{what: how}`` of the images as the network sees them, e.g. ``{"pixels": "32 × 32, stretched"}``.
        training_images: uint8 ``[N, H, W, C]``, a batch as it was augmented.
        command: with which the run can be started again.
        versions: ``{library: version}``.
        data_digest: a digest of the images that were read; empty where it is not known.
        formats: in which figures are written beside the page.
        image_size: side of the images as the network sees them; 0 is not known.
        photo_size: median of the shorter side of the training images as they were read; 0 is not known.
        larger_weights: what ``--pretrained`` could name without a download, for larger images.
    """

    flags: Mapping[str, Any]
    score: str
    rows: Rows
    passes: Rows
    summary: Mapping[str, Any] | None = None
    test: Tested | None = None
    pictures: Sequence[Picture] = ()
    files: Files = dataclasses.field(default_factory=dict)
    seen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    training_images: np.ndarray | None = None
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data_digest: str = ""
    formats: Sequence[Format] = ("png",)
    image_size: int = 0
    photo_size: int = 0
    larger_weights: Sequence[str] = ()
