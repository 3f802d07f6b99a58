"""Images that a Python program hands over: a data set under the name ``memory:DIGEST`` for as long as it keeps it."""

import dataclasses
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from finetune_jax.data import image_files, image_inputs, image_weights, memory_labels
from finetune_jax.data.decode import Decoding
from finetune_jax.data.examples import Examples, Source, as_digests, digest_of, fingerprint_of_digests
from finetune_jax.data.file_tree import File
from finetune_jax.data.near_duplicates import appearance_of_pixels
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.pixels import shown
from finetune_jax.data.split_rules import BY_CONTENT
from finetune_jax.errors import UserError, readable

_KIND = "memory"
_DIGITS = 16  # of the digest in a name


class Part(NamedTuple):
    """The images of a split.

    Attributes:
        images: N of them, see ``image_inputs.one_by_one``.
        labels: of these, see ``memory_labels.understand``.
        groups: what each image belongs to, such as a patient; None for no groups.
        weights: factors of their losses in training; None for 1.
    """

    images: Any
    labels: Any
    groups: Any = None
    weights: Any = None


class Held:
    """A source that is held in memory; :func:`read` finds it under its name as long as this object lives."""

    def __init__(self, source: Source) -> None:
        self.source = source


_held: "weakref.WeakValueDictionary[str, Held]" = weakref.WeakValueDictionary()


def hold(
    parts: Mapping[str, Part], *, decoding: Decoding, task: str = "auto", workers: int | None = None
) -> Held:
    """Make a data set of images in memory.

    Args:
        parts: by split, ``train`` among them.
        decoding: of files and wide grey values.
        task: how labels are understood, see ``memory_labels.understand``.
        workers: number of threads that look at the images.

    Raises:
        UserError: there are other numbers of images and labels, a label is missing, or a file cannot be read.
        TypeError: something is no image.
    """
    understood = memory_labels.understand({split: part.labels for split, part in parts.items()}, task)
    splits = {}
    for split, part in parts.items():
        labels = understood.labels[split]
        examples = _examples(part.images, labels, split, decoding, workers)
        if understood.targets is not None:
            examples = examples.with_targets(understood.targets[split])
        if part.groups is not None:
            groups = [str(group) for group in part.groups]
            if len(groups) != len(labels):
                raise UserError(f"{split}: {len(labels)} images and {len(groups)} groups are given")
            examples = examples.grouped(groups)
        if any(other.weights is not None for other in parts.values()):
            of_images = np.ones(len(labels)) if part.weights is None else part.weights
            examples = examples.with_weights(image_weights.of_program(of_images, len(labels), split))
        splits[split] = examples
    weights = splits["train"].weights
    notes = () if weights is None else (image_weights.note(weights),)
    source = Source("", understood.class_names, splits, notes, split_rule=BY_CONTENT, task=understood.task)
    return hold_source(source)


def hold_source(source: Source) -> Held:
    """Give a source a name under which a run finds it; equal data get the same name."""
    grouped = [part.groups.tobytes() for part in source.splits.values() if part.groups is not None]
    name = (
        f"{_KIND}:{source.fingerprint[:_DIGITS]}{digest_of(b''.join(grouped)).hex()[:8] if grouped else ''}"
    )
    return _held.setdefault(name, Held(dataclasses.replace(source, name=name)))


def read(name: str) -> Source:
    """The source of :func:`hold`.

    Raises:
        UserError: nobody holds it any more.
    """
    held = _held.get(name)
    if held is None:
        raise UserError(
            f"--dataset={readable(name)}: these images were in the memory of a Python program; hand them over again, "
            "or name a folder or table"
        )
    return held.source


def _examples(
    images: Any, labels: np.ndarray, split: str, decoding: Decoding, workers: int | None
) -> Examples:
    ready = (
        images
        if isinstance(images, np.ndarray) and images.ndim == 4
        else list(image_inputs.one_by_one(images))
    )
    if len(ready) != len(labels):
        raise UserError(f"{split}: {len(ready)} images and {len(labels)} labels are given")
    if len(ready) and all(isinstance(image, str | os.PathLike) for image in ready):
        return _of_files([os.fspath(image) for image in ready], labels, decoding, workers)

    def look(index: int) -> tuple[bytes, bytes]:
        pixels = image_inputs.pixels_of(ready[index], decoding)
        return _digest(ready[index], pixels), appearance_of_pixels(shown(pixels))

    looks = list(ordered_map(look, len(ready), workers=workers))
    digests = as_digests([digest for digest, _ in looks])
    appearances = np.frombuffer(b"".join(seen for _, seen in looks), np.uint8).reshape(len(looks), -1)
    return Examples(
        labels=labels,
        names=[f"{split}[{index}]" for index in range(len(labels))],
        read=lambda index: image_inputs.pixels_of(ready[index], decoding),
        fingerprint=fingerprint_of_digests(digests),
        digests=digests,
        appearances=appearances,
    )


def _digest(image: Any, pixels: np.ndarray) -> bytes:
    """Of what was handed over, where that is more than its pixels of eight bits."""
    if isinstance(image, bytes | bytearray | memoryview):
        return digest_of(bytes(image))
    array = np.asarray(image) if isinstance(image, np.ndarray | Image.Image) else pixels
    return digest_of(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())


def _of_files(paths: Sequence[str], labels: np.ndarray, decoding: Decoding, workers: int | None) -> Examples:
    listed = []
    for path, label in zip(paths, labels.tolist(), strict=True):
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{readable(path)} cannot be read: {getattr(error, 'strerror', error)}"
            ) from error
        file = File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        listed.append((label, file))
    reading = image_files.Reading(decoding, None, workers, False, True)
    return image_files.examples("", {"": listed}, reading)[""]
