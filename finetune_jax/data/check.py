"""What may be wrong with a data set: unreadable, repeated, missing or strangely shaped images."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial

import numpy as np

from finetune_jax.data.decode import UnreadableImage
from finetune_jax.data.examples import Examples, Source
from finetune_jax.data.parallel import ordered_map

_LISTED = 20  # of each kind of finding in the text; the report itself has all


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image is: split, name of the example, class name."""

    split: str
    name: str
    class_name: str


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Two or more images with exactly the same pixels."""

    places: tuple[Place, ...]

    @property
    def across_splits(self) -> bool:
        """Whether an image of one split is in another one too."""
        return len({place.split for place in self.places}) > 1

    @property
    def contradictory(self) -> bool:
        """Whether the same pixels have several labels."""
        return len({place.class_name for place in self.places}) > 1


@dataclasses.dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some numbers; NaN of none."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """The spread of `values`, ``[N]``."""
        if len(values) == 0:
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(float(values.min()), float(np.median(values)), float(values.max()))


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The findings.

    Attributes:
      name: Of the source.
      notes: Of the source.
      class_names: C of them.
      counts: Images per class of each split, int ``[C]``; unreadable ones count.
      min_images: Fewest training images a class should have.
      small_classes: Name and number of training images of each trained class that has fewer.
      unreadable: Place and reason of each.
      duplicates: Groups of images with the same pixels.
      widths: In pixels, as are the heights; upright.
      heights: See widths.
      aspects: Width over height.
    """

    name: str
    notes: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Mapping[str, np.ndarray]
    min_images: int
    small_classes: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[Place, str], ...]
    duplicates: tuple[Duplicates, ...]
    widths: Spread
    heights: Spread
    aspects: Spread

    @property
    def ok(self) -> bool:
        """Whether a run would neither stop nor give numbers that mislead.

        Copies within one split and of one class are no reason for alarm.
        """
        alarming = any(group.across_splits or group.contradictory for group in self.duplicates)
        return not (self.unreadable or self.small_classes or alarming)


def check(
    source: Source, *, min_images: int = 10, workers: int | None = None, progress: bool = False
) -> Report:
    """Decodes every image of `source` once.

    Args:
      source: With all its splits.
      min_images: Fewest training images a class should have.
      workers: Number of threads, see `ordered_map`.
      progress: Whether to show a bar on stderr.
    """
    unreadable: list[tuple[Place, str]] = []
    groups: dict[bytes, list[tuple[str, int]]] = {}
    shapes: list[tuple[int, int]] = []
    for split, examples in source.splits.items():
        looks = ordered_map(
            partial(_look, examples),
            len(examples),
            workers=workers,
            progress=progress,
            title=f"checking {split}",
        )
        with contextlib.closing(looks):
            for i, result in enumerate(looks):
                if isinstance(result, str):
                    unreadable.append((_place(source, split, i), result))
                else:
                    digest, shape = result
                    groups.setdefault(digest, []).append((split, i))
                    shapes.append(shape)
    counts = {
        split: np.bincount(examples.labels, minlength=len(source.class_names))
        for split, examples in source.splits.items()
    }
    trained = range(source.num_train_classes)
    heights, widths = np.array(shapes, np.float64).reshape(-1, 2).T
    return Report(
        name=source.name,
        notes=source.notes,
        class_names=source.class_names,
        counts=counts,
        min_images=min_images,
        small_classes=tuple(
            (source.class_names[i], int(counts["train"][i]))
            for i in trained
            if counts["train"][i] < min_images
        ),
        unreadable=tuple(unreadable),
        duplicates=tuple(
            Duplicates(tuple(_place(source, split, i) for split, i in members))
            for members in groups.values()
            if len(members) > 1
        ),
        widths=Spread.of(widths),
        heights=Spread.of(heights),
        aspects=Spread.of(widths / heights),
    )


def _look(examples: Examples, i: int) -> tuple[bytes, tuple[int, int]] | str:
    """Digest of the pixels and (height, width); or the reason why there are none."""
    try:
        image = np.ascontiguousarray(examples.read(i))
    except UnreadableImage as error:
        return error.reason
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(image.data)
    return digest.digest(), (image.shape[0], image.shape[1])


def _place(source: Source, split: str, i: int) -> Place:
    examples = source.splits[split]
    return Place(split, examples.names[i], source.class_names[examples.labels[i]])


def format_report(report: Report) -> str:
    """The report as text of several lines, for people; at most twenty findings of each kind."""
    shared = [group for group in report.duplicates if group.across_splits]
    contradictory = [group for group in report.duplicates if group.contradictory]
    copies = [group for group in report.duplicates if not group.across_splits]
    sizes = ", ".join(f"{int(counts.sum())} {split}" for split, counts in report.counts.items())
    lines = [f"{report.name}: {len(report.class_names)} classes, {sizes} images", *report.notes, ""]
    lines += _section("unreadable images", [f"{_told(p)}: {reason}" for p, reason in report.unreadable])
    lines += _section(
        f"classes with fewer than {report.min_images} training images",
        [f"{name}: {count}" for name, count in report.small_classes],
    )
    for title, groups in (
        ("images that are in more than one split", shared),
        ("images that have more than one class", contradictory),
        ("images that are more than once in a split", copies),
    ):
        lines += _section(title, [" = ".join(_told(p) for p in group.places[:5]) for group in groups])
    lines += ["", f"{'':14}{'min':>8}{'median':>8}{'max':>8}"]
    for title, spread, digits in (
        ("width", report.widths, 0),
        ("height", report.heights, 0),
        ("width/height", report.aspects, 2),
    ):
        numbers = (spread.minimum, spread.median, spread.maximum)
        lines.append(f"{title:14}" + "".join(f"{number:8.{digits}f}" for number in numbers))
    width = max(len("images"), *(len(name) for name in report.class_names)) + 2
    lines += ["", f"{'images':{width}}" + "".join(f"{split:>12}" for split in report.counts)]
    for number, name in enumerate(report.class_names):
        lines.append(
            f"{name:{width}}" + "".join(f"{counts[number]:12d}" for counts in report.counts.values())
        )
    lines += ["", "No problems found." if report.ok else "There are problems, see above."]
    return "\n".join(lines)


def _section(title: str, findings: list[str]) -> list[str]:
    more = [f"  and {len(findings) - _LISTED} more"] if len(findings) > _LISTED else []
    return [f"{title}: {len(findings) or 'none'}", *(f"  {finding}" for finding in findings[:_LISTED]), *more]


def _told(place: Place) -> str:
    return f"{place.split} {place.name} ({place.class_name})"
