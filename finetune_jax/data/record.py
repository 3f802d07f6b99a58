"""What images a run had: the record that is kept with it, and how data of another day differ from it.

A record of a million images takes about 20 MB: names, digests of the content and labels of every split, compressed.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.data.examples import DIGEST_BYTES, Examples, Source, concatenate, fingerprint_of
from finetune_jax.errors import DAMAGE, UserError, readable

FILE = "data.npz"
"""Name of the file in a run directory."""

_DAMAGED: tuple[type[Exception], ...] = (OSError, *DAMAGE)
_VERSION = 1
_TIME = (1980, 1, 1, 0, 0, 0)  # of the members of the archive: equal records are equal files
_NAMED = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in their order.

    Attributes:
        names: N of them, without the folder that holds the data set.
        digests: of their content, uint8 ``[N, 16]``.
        labels: int32 ``[N]``, or float32 ``[N, C]`` where images have several labels or numbers.
        weights: float32 ``[N]``; None where all images count alike.
    """

    names: Sequence[str]
    digests: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None

    def label(self, index: int, class_names: Sequence[str]) -> str:
        """The label of an image, such that equal ones are equal texts."""
        if self.labels.ndim == 1:
            return class_names[self.labels[index]]
        return repr(dict(zip(class_names, self.labels[index].tolist(), strict=True)))


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """The data of a run.

    Attributes:
        dataset: what ``--dataset`` named.
        class_names: C of them.
        split_rule: version of the rule by which missing splits were made.
        splits: by name.
    """

    dataset: str
    class_names: tuple[str, ...]
    split_rule: int
    splits: Mapping[str, Split]

    @property
    def digest(self) -> str:
        """Hex digest of classes, splits, images and labels; names do not count, so a data set may be moved."""
        parts: list[str | bytes] = ["data", *self.class_names]
        for name, split in sorted(self.splits.items()):
            kind = "<i4" if split.labels.ndim == 1 else "<f4"
            parts += [name, split.digests.tobytes(), split.labels.astype(kind).tobytes()]
            if split.weights is not None:
                parts.append(split.weights.astype("<f4").tobytes())
        return fingerprint_of(*parts)


def record_of(source: Source) -> Record | None:
    """The record of a data set as it is now; None for one whose images have no digests."""
    splits = {}
    for name, examples in source.splits.items():
        if examples.digests is None:
            return None
        names = [example.removeprefix(source.root) for example in examples.names]
        splits[name] = Split(names, examples.digests, examples.truth, examples.weights)
    return Record(source.name, source.class_names, source.split_rule, splits)


def to_bytes(record: Record) -> bytes:
    """A record as the content of a compressed ``.npz`` file; equal records give equal bytes."""
    about = {
        "version": _VERSION,
        "dataset": record.dataset,
        "class_names": list(record.class_names),
        "split_rule": record.split_rule,
        "splits": list(record.splits),
        "digest": record.digest,
    }
    arrays = {"about": _as_array(json.dumps(about))}
    for number, split in enumerate(record.splits.values()):
        arrays[f"names_{number}"] = _as_array(json.dumps(list(split.names), ensure_ascii=False))
        arrays[f"digests_{number}"] = split.digests
        arrays[f"labels_{number}"] = split.labels.astype(np.int32 if split.labels.ndim == 1 else np.float32)
        if split.weights is not None:
            arrays[f"weights_{number}"] = split.weights.astype(np.float32)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", _TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content.getvalue())
    return file.getvalue()


def from_bytes(content: bytes, name: str) -> Record:
    """Back from :func:`to_bytes`.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        UserError: it is no record, or a damaged one.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = json.loads(_as_text(arrays["about"]))
            splits = {
                str(split): _split(
                    json.loads(_as_text(arrays[f"names_{number}"])),
                    arrays[f"digests_{number}"],
                    arrays[f"labels_{number}"],
                    arrays.get(f"weights_{number}"),
                )
                for number, split in enumerate(about["splits"])
            }
        record = Record(
            str(about["dataset"]), tuple(map(str, about["class_names"])), int(about["split_rule"]), splits
        )
        if record.digest != about["digest"]:
            raise ValueError("its digest is another")
    except _DAMAGED as error:
        raise UserError(
            f"{name}, the record of the run's images, is damaged ({readable(error, 200)}): restore it, or start a new "
            "run in another --workdir"
        ) from error
    return record


def difference(before: Record, now: Record, *, began: str = "when the run began") -> str:
    """How data differ from those of a record, as a sentence without a full stop; empty where they do not.

    Args:
        before: the record.
        now: of the data as they are.
        began: when the record was made.
    """
    if before.digest == now.digest:
        return ""
    if before.class_names != now.class_names:
        added = [name for name in now.class_names if name not in before.class_names]
        removed = [name for name in before.class_names if name not in now.class_names]
        changes = [
            *([f"{_named(added)} came"] if added else []),
            *([f"{_named(removed)} went"] if removed else []),
        ]
        return f"the data has other classes than {began}: {', '.join(changes) or 'they are in another order'}"
    counts = _changes(before, now)
    image_changes = [f"{len(names)} {kind} ({_named(names)})" for kind, names in counts.items() if names]
    return (
        f"the data has other images than {began}: {', '.join(image_changes) or 'they are in another order'}"
    )


def _changes(before: Record, now: Record) -> dict[str, list[str]]:
    """Names of the images that were added, removed, changed, renamed, and that fell into another split."""
    old, new = _by_name(before), _by_name(now)
    added = {name for name in new if name not in old}
    removed = {name for name in old if name not in new}
    contents: dict[bytes, list[str]] = {}
    for name in sorted(removed):
        contents.setdefault(old[name][0], []).append(name)
    renamed = []
    for name in sorted(added):
        if same := contents.get(new[name][0]):
            removed.discard(same.pop())
            added.discard(name)
            renamed.append(name)
    both = [name for name in new if name in old]
    return {
        "added": sorted(added),
        "removed": sorted(removed),
        "changed": sorted(name for name in both if new[name][0] != old[name][0]),
        "renamed": renamed,
        "of another class": sorted(name for name in both if new[name][2] != old[name][2]),
        "of another weight": sorted(name for name in both if new[name][3] != old[name][3]),
        "in another split": sorted(
            name for name in both if new[name][1] != old[name][1] and new[name][0] == old[name][0]
        ),
    }


def restored(record: Record, source: Source, split: str) -> tuple[Examples, str]:
    """The images that a run had in a split, found in the data as it is now.

    Args:
        record: of the run.
        source: the data now, whatever its splits are.
        split: that is asked for.

    Returns:
        The examples, labelled with the numbers of the record's classes, in the record's order; and a sentence about
        what else has changed, empty where nothing has.

    Raises:
        UserError: not all of them are there, or not as they were.
    """
    now = record_of(source)
    if now is None or split not in record.splits:
        raise UserError(f"{source.name} has no {split} split that can be compared with the run's")
    recorded = record.splits[split]
    every = concatenate([source.splits[name] for name in now.splits])
    places = {
        name: place for place, name in enumerate(name for part in now.splits.values() for name in part.names)
    }
    indices = [places.get(name, -1) for name in recorded.names]
    missing = [name for name, index in zip(recorded.names, indices, strict=True) if index < 0]
    present = [index for index in indices if index >= 0]
    assert every.digests is not None
    kept = np.array([index >= 0 for index in indices], bool)
    equal = (every.digests[present] == recorded.digests[kept]).all(1)
    changed = (
        [every.names[index].removeprefix(source.root) for index in np.array(present)[~equal]]
        if present
        else []
    )
    if missing or changed:
        image_changes = [
            *([f"{len(missing)} were removed ({_named(missing)})"] if missing else []),
            *([f"{len(changed)} were changed ({_named(changed)})"] if changed else []),
        ]
        raise UserError(
            f"{source.name} no longer holds the {len(recorded.names)} {split} images of the run: "
            f"{', '.join(image_changes)}; restore them, or measure on the folder as it is now with --current_folder"
        )
    examples = every.subset(np.array(present, np.int64))
    if recorded.labels.ndim == 1:
        examples = dataclasses.replace(examples, labels=recorded.labels)
    else:
        examples = dataclasses.replace(examples, targets=recorded.labels)
    changes = difference(record, now)
    return examples, changes


def trained_on(record: Record, examples: Examples) -> np.ndarray:
    """Which examples a run was trained on, by their content, bool ``[N]``; none where that is not known."""
    if examples.digests is None or "train" not in record.splits:
        return np.zeros(len(examples), bool)
    trained = {digest.tobytes() for digest in record.splits["train"].digests}
    return np.array([digest.tobytes() in trained for digest in examples.digests], bool)


def _by_name(record: Record) -> dict[str, tuple[bytes, str, str, float]]:
    """Digest, split, class and weight of each image."""
    return {
        name: (
            part.digests[place].tobytes(),
            split,
            part.label(place, record.class_names),
            1.0 if part.weights is None else float(part.weights[place]),
        )
        for split, part in record.splits.items()
        for place, name in enumerate(part.names)
    }


def _split(names: Any, digests: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> Split:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("names are no list of texts")
    if digests.dtype != np.uint8 or digests.shape != (len(names), DIGEST_BYTES):
        raise ValueError(f"digests have the shape {digests.shape}")
    kinds = {1: np.int32, 2: np.float32}
    if labels.dtype != kinds.get(labels.ndim) or labels.shape[:1] != (len(names),):
        raise ValueError(f"labels have the shape {labels.shape}")
    if weights is not None and (weights.dtype != np.float32 or weights.shape != (len(names),)):
        raise ValueError(f"weights have the shape {weights.shape}")
    return Split(names, digests, labels, weights)


def _named(names: Sequence[str]) -> str:
    return ", ".join(readable(name, 80) for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _as_array(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def _as_text(array: np.ndarray) -> str:
    return array.tobytes().decode("utf-8", "surrogatepass")
