"""Labelled images that are read one by one, on demand.

Images are uint8 RGB ``[h, w, 3]`` of any size, upright; labels are int32 class numbers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

DIGEST_BYTES = 16
"""Bytes of the digest of one image's content."""


def fingerprint_of(*parts: str | bytes) -> str:
    """Hex digest of a sequence of strings; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def digest_of(content: bytes) -> bytes:
    """Digest of one image's content, :data:`DIGEST_BYTES` long."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def as_digests(digests: Sequence[bytes]) -> np.ndarray:
    """Digests of N images as uint8 ``[N, 16]``."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def fingerprint_of_digests(digests: np.ndarray) -> str:
    """Hex digest of images, uint8 ``[N, 16]``, in their order."""
    return fingerprint_of("images", digests.tobytes())


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One split of a data set; nothing is decoded before `read` is called.

    Attributes:
      labels: int32 ``[N]``.
      names: What a message calls each of the N examples (a path, or ``digits[17]``).
      read: Index to decoded image, uint8 ``[h, w, 3]``, orientation applied. May be called from several
        threads at once. Raises `decode.UnreadableImage`.
      fingerprint: Hex digest of the images and their order; labels and names do not count.
      digests: Digest of each image's content, uint8 ``[N, 16]``; zeros where there is none to be had. None for
        examples of which only the fingerprint is known.
      appearances: What the images look like, uint8 ``[N, 75]``, see `near_duplicates`; None where nobody asked.
      encoded: Index to the encoded image, where there is one; errors as of `read`.
      groups: Digest of the name of each image's group, uint8 ``[N, 16]``; splits that are made keep a group on one
        side. None where there are no groups.
      read_page: As `read`, of a page of the file too (from 0); None where files have no pages.
      owners: int ``[N]``, which file of those that were listed each image is a page of; None for files of their own.
      group_names: Names of the groups, N of them; None where there are no groups.
      targets: What is learned where that is no class, float32 ``[N, C]``: 0 and 1 for each class, or numbers;
        `labels` then are what splits are balanced by.
      weights: Factors of the images' losses in training, float32 ``[N]``; None where all count alike.
      place: Where the images lie, for those whose digests are not of their content; what is kept of the pixels is of
        the images of that place alone. Empty for all others.
    """

    labels: np.ndarray
    names: Sequence[str]
    read: Callable[[int], np.ndarray]
    fingerprint: str
    digests: np.ndarray | None = None
    appearances: np.ndarray | None = None
    encoded: Callable[[int], bytes] | None = None
    groups: np.ndarray | None = None
    read_page: Callable[[int, int], np.ndarray] | None = None
    owners: np.ndarray | None = None
    group_names: Sequence[str] | None = None
    targets: np.ndarray | None = None
    weights: np.ndarray | None = None
    place: str = ""

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int32:
            raise ValueError(f"labels must be int32 [N], not {self.labels.dtype} {self.labels.shape}")
        if len(self.names) != len(self.labels):
            raise ValueError(f"{len(self.names)} names for {len(self.labels)} labels")
        targets = self.targets
        if targets is not None and (targets.dtype != np.float32 or targets.shape[:-1] != self.labels.shape):
            raise ValueError(f"targets must be float32 [N, C], not {targets.dtype} {targets.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def truth(self) -> np.ndarray:
        """What is learned: class numbers int32 ``[N]``, or targets float32 ``[N, C]``."""
        return self.labels if self.targets is None else self.targets

    def subset(self, indices: np.ndarray) -> "Examples":
        """The examples at `indices`, int ``[M]``, in that order."""
        order = np.asarray(indices, np.int64)
        read, encoded = self.read, self.encoded
        digests = None if self.digests is None else self.digests[order]
        return Examples(
            labels=self.labels[order],
            names=[self.names[i] for i in order],
            read=lambda index: read(int(order[index])),
            fingerprint=fingerprint_of("subset", self.fingerprint, order.tobytes())
            if digests is None
            else fingerprint_of_digests(digests),
            digests=digests,
            appearances=None if self.appearances is None else self.appearances[order],
            encoded=None if encoded is None else lambda index: encoded(int(order[index])),
            groups=None if self.groups is None else self.groups[order],
            group_names=None if self.group_names is None else [self.group_names[i] for i in order],
            targets=None if self.targets is None else self.targets[order],
            weights=None if self.weights is None else self.weights[order],
            place=self.place,
        )

    def grouped(self, names: Sequence[str]) -> "Examples":
        """The same images with the name of each one's group.

        Args:
          names: Of each image, or of each file where images are their pages.
        """
        if self.owners is not None and len(names) != len(self):
            names = [names[owner] for owner in self.owners]
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        return dataclasses.replace(
            self, groups=as_digests([digest_of(name) for name in encoded]), group_names=names
        )

    def with_targets(self, targets: np.ndarray) -> "Examples":
        """The same images with targets, float32 ``[N, C]``, or one row per file where images are pages of files."""
        if self.owners is not None and len(targets) != len(self):
            targets = targets[self.owners]
        return dataclasses.replace(self, targets=targets)

    def with_weights(self, weights: np.ndarray) -> "Examples":
        """The same images with weights, float32 ``[N]``, or one per file where images are pages of files."""
        if self.owners is not None and len(weights) != len(self):
            weights = weights[self.owners]
        return dataclasses.replace(self, weights=weights)

    def relabelled(self, new_labels: np.ndarray) -> "Examples":
        """The same images, class ``c`` now being ``new_labels[c]``, int ``[C]``."""
        return dataclasses.replace(self, labels=np.asarray(new_labels, np.int32)[self.labels])


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, one part after the other."""
    ends = np.cumsum([len(part) for part in parts])

    def place(index: int) -> tuple[Examples, int]:
        part = int(np.searchsorted(ends, index, side="right"))
        return parts[part], index - int(ends[part]) + len(parts[part])

    def read(index: int) -> np.ndarray:
        part, inside = place(index)
        return part.read(inside)

    def encoded(index: int) -> bytes:
        part, inside = place(index)
        assert part.encoded is not None
        return part.encoded(inside)

    digests = _joined([part.digests for part in parts])
    group_names = [part.group_names for part in parts if part.group_names is not None]
    return Examples(
        labels=np.concatenate([part.labels for part in parts]),
        names=[name for part in parts for name in part.names],
        read=read,
        fingerprint=fingerprint_of("concatenation", *(part.fingerprint for part in parts))
        if digests is None
        else fingerprint_of_digests(digests),
        digests=digests,
        appearances=_joined([part.appearances for part in parts]),
        encoded=encoded if all(part.encoded is not None for part in parts) else None,
        groups=_joined([part.groups for part in parts]),
        group_names=[name for names in group_names for name in names]
        if len(group_names) == len(parts)
        else None,
        targets=_joined([part.targets for part in parts]),
        weights=_joined([part.weights for part in parts]),
        place=next((part.place for part in parts if part.place), ""),
    )


def _joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
      name: As on the command line, e.g. ``folder:photos``.
      class_names: Name of every class. Where some classes are not trained on (retrieval), the classes of
        the training split come first, so that its labels are ``0 … num_train_classes - 1``.
      splits: ``train``, ``validation`` and ``test``, for retrieval perhaps a ``gallery`` in which the images
        of ``test`` are searched for instead of among each other. What a reader of one kind of data set returns has only
        the splits that were there; `sources.load` adds the others.
      notes: What was made up or left out, one sentence each, for the log.
      unlabelled: By name, splits that come without labels (all of theirs are -1), to be predicted only.
      root: What the names of the images begin with and a data set that is moved changes.
      findings: What is wrong with it that a check of the data lists and a run refuses.
      split_rule: Version of the rule by which missing splits are made, see `split_rules`.
      task: What its labels are: ``classification`` (one class per image), ``ordinal`` (classes that are ordered
        numbers), ``multilabel`` (any number of classes) or ``regression`` (numbers, named by `class_names`).
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    unlabelled: Mapping[str, Examples] = dataclasses.field(default_factory=dict)
    root: str = ""
    findings: tuple[str, ...] = ()
    split_rule: int = 1
    task: str = "classification"

    def label_text(self, examples: Examples, index: int) -> str:
        """What people call the label of an example of one of the splits."""
        if examples.targets is None:
            return self.class_names[examples.labels[index]]
        target = examples.targets[index]
        if self.task == "regression":
            return ", ".join(f"{value:g}" for value in target)
        return ", ".join(self.class_names[number] for number in np.flatnonzero(target)) or "none"

    @property
    def num_train_classes(self) -> int:
        """Number of classes of the training split, i.e. of outputs of a classifier."""
        if self.splits["train"].targets is not None:
            return len(self.class_names)
        return int(self.splits["train"].labels.max()) + 1

    @property
    def fingerprint(self) -> str:
        """Hex digest of class names, splits, images and labels: equal only for equal data."""
        parts: list[str | bytes] = ["source", *self.class_names]
        for split, examples in sorted(self.splits.items()):
            parts += [split, examples.fingerprint, examples.truth.tobytes()]
            if examples.weights is not None:
                parts.append(examples.weights.tobytes())
        return fingerprint_of(*parts)
