"""Labelled images that are read one by one, on demand.

Images are uint8 RGB ``[h, w, 3]`` of any size, upright; labels are int32 class numbers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def fingerprint_of(*parts: str | bytes) -> str:
    """Hex digest of a sequence of strings; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One split of a data set; nothing is decoded before `read` is called.

    Attributes:
      labels: int32 ``[N]``.
      names: What a message calls each of the N examples (a path, or ``digits[17]``).
      read: Index to decoded image, uint8 ``[h, w, 3]``, orientation applied. May be called from several
        threads at once. Raises `decode.UnreadableImage`.
      fingerprint: Hex digest of the images and their order; labels and names do not count.
    """

    labels: np.ndarray
    names: Sequence[str]
    read: Callable[[int], np.ndarray]
    fingerprint: str

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int32:
            raise ValueError(f"labels must be int32 [N], not {self.labels.dtype} {self.labels.shape}")
        if len(self.names) != len(self.labels):
            raise ValueError(f"{len(self.names)} names for {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Examples":
        """The examples at `indices`, int ``[M]``, in that order."""
        order = np.asarray(indices, np.int64)
        read = self.read
        return Examples(
            labels=self.labels[order],
            names=[self.names[i] for i in order],
            read=lambda index: read(int(order[index])),
            fingerprint=fingerprint_of("subset", self.fingerprint, order.tobytes()),
        )

    def relabelled(self, new_labels: np.ndarray) -> "Examples":
        """The same images, class ``c`` now being ``new_labels[c]``, int ``[C]``."""
        return dataclasses.replace(self, labels=np.asarray(new_labels, np.int32)[self.labels])


def concatenate(parts: Sequence[Examples]) -> Examples:
    """All examples of `parts`, one part after the other."""
    ends = np.cumsum([len(part) for part in parts])

    def read(index: int) -> np.ndarray:
        part = int(np.searchsorted(ends, index, side="right"))
        return parts[part].read(index - int(ends[part]) + len(parts[part]))

    return Examples(
        labels=np.concatenate([part.labels for part in parts]),
        names=[name for part in parts for name in part.names],
        read=read,
        fingerprint=fingerprint_of("concatenation", *(part.fingerprint for part in parts)),
    )


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
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    unlabelled: Mapping[str, Examples] = dataclasses.field(default_factory=dict)

    @property
    def num_train_classes(self) -> int:
        """Number of classes of the training split, i.e. of outputs of a classifier."""
        return int(self.splits["train"].labels.max()) + 1

    @property
    def fingerprint(self) -> str:
        """Hex digest of class names, splits, images and labels: equal only for equal data."""
        parts: list[str | bytes] = ["source", *self.class_names]
        for split, examples in sorted(self.splits.items()):
            parts += [split, examples.fingerprint, examples.labels.tobytes()]
        return fingerprint_of(*parts)
