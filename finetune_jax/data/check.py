"""What may be wrong with a data set: unreadable, repeated, missing or strangely shaped images."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial

import numpy as np

from finetune_jax.data import near_duplicates
from finetune_jax.data.decode import UnreadableImage, bits_used
from finetune_jax.data.examples import Examples, Source, concatenate
from finetune_jax.data.parallel import ordered_map
from finetune_jax.data.pixels import FULL_BITS

_FEW_BITS = 14  # of 16 bits: pixels at most a quarter as light as they may be
_USUAL_BITS = (8, 10, 12, 14)  # of cameras and scanners
_LISTED = 20  # of each kind of finding in the text; the report itself has all


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image is: split, name of the example, class name."""

    split: str
    name: str
    class_name: str


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Two or more images with exactly the same pixels, or that look alike."""

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
      near_duplicates: Groups of images that look alike and lie in more than one split or class, the equal ones left
        out.
      few_bits: Place of each image with 16 bits per sample whose values need fewer, and how many.
      findings: Of the source.
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
    near_duplicates: tuple[Duplicates, ...]
    few_bits: tuple[tuple[Place, int], ...]
    findings: tuple[str, ...]
    widths: Spread
    heights: Spread
    aspects: Spread

    @property
    def ok(self) -> bool:
        """Whether a run would neither stop nor give numbers that mislead.

        Copies within one split and of one class are no reason for alarm.
        """
        alarming = any(group.across_splits or group.contradictory for group in self.duplicates)
        return not (self.unreadable or self.small_classes or self.few_bits or self.findings or alarming)


def check(
    source: Source,
    *,
    min_images: int = 10,
    bits: int = FULL_BITS,
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Decodes every image of `source` once.

    Args:
      source: With all its splits.
      min_images: Fewest training images a class should have.
      bits: That 16-bit images are read with.
      workers: Number of threads, see `ordered_map`.
      progress: Whether to show a bar on stderr.
    """
    few_bits: list[tuple[Place, int]] = []
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
                    digest, shape, used = result
                    if used is not None and used <= min(_FEW_BITS, bits - 1):
                        few_bits.append((_place(source, split, i), used))
                    groups.setdefault(digest, []).append((split, i))
                    shapes.append(shape)
    counts = {split: _counts(source, examples) for split, examples in source.splits.items()}
    trained = range(0 if source.task == "regression" else source.num_train_classes)
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
        near_duplicates=_near_duplicates(source),
        few_bits=tuple(few_bits),
        findings=source.findings,
        widths=Spread.of(widths),
        heights=Spread.of(heights),
        aspects=Spread.of(widths / heights),
    )


def _look(examples: Examples, i: int) -> tuple[bytes, tuple[int, int], int | None] | str:
    """Digest of the pixels, (height, width) and bits that are used of 16; or the reason why there are none."""
    try:
        image = np.ascontiguousarray(examples.read(i))
        used = None
        # All else has other values than 16-bit images that come out dark.
        if examples.encoded is not None and image.max(initial=0) < 2 ** (_FEW_BITS - 8):
            used = bits_used(examples.encoded(i), examples.names[i])
    except UnreadableImage as error:
        return error.reason
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(image.data)
    return digest.digest(), (image.shape[0], image.shape[1]), used


def _near_duplicates(source: Source) -> tuple[Duplicates, ...]:
    """Images that look alike in more than one split or class; none where nobody has looked."""
    splits = {split: part for split, part in source.splits.items() if len(part)}
    every = concatenate(list(splits.values()))
    if every.digests is None or every.appearances is None:
        return ()
    places = [(split, i) for split, part in splits.items() for i in range(len(part))]
    groups = near_duplicates.groups_of(every.digests, every.appearances)
    duplicates: list[Duplicates] = []
    numbers, counts = np.unique(groups, return_counts=True)
    for number in numbers[counts > 1]:
        members = np.flatnonzero(groups == number)
        if len(np.unique(every.digests[members], axis=0)) == 1:
            continue
        group = Duplicates(tuple(_place(source, *places[member]) for member in members))
        if group.across_splits or group.contradictory:
            duplicates.append(group)
    return tuple(duplicates)


def _place(source: Source, split: str, i: int) -> Place:
    examples = source.splits[split]
    return Place(split, examples.names[i], source.label_text(examples, i))


def _counts(source: Source, examples: Examples) -> np.ndarray:
    """Images of each class; for numbers how many there are."""
    if examples.targets is None:
        return np.bincount(examples.labels, minlength=len(source.class_names))
    if source.task == "regression":
        return np.full(len(source.class_names), len(examples))
    return examples.targets.sum(0).astype(np.int64)


def format_report(report: Report) -> str:
    """The report as text of several lines, for people; at most twenty findings of each kind."""
    shared = [group for group in report.duplicates if group.across_splits]
    contradictory = [group for group in report.duplicates if group.contradictory]
    copies = [group for group in report.duplicates if not group.across_splits]
    alike = list(report.near_duplicates)
    sizes = ", ".join(f"{int(counts.sum())} {split}" for split, counts in report.counts.items())
    lines = [f"{report.name}: {len(report.class_names)} classes, {sizes} images", *report.notes, ""]
    lines += [f"problem: {finding}" for finding in report.findings]
    lines += _section("unreadable images", [f"{_place_text(p)}: {reason}" for p, reason in report.unreadable])
    lines += _section(
        f"classes with fewer than {report.min_images} training images",
        [f"{name}: {count}" for name, count in report.small_classes],
    )
    if report.few_bits:
        most = max(used for _, used in report.few_bits)
        usual = next((bits for bits in _USUAL_BITS if bits >= most), FULL_BITS)
        lines += _section(
            f"16-bit images of which at most {most} bits are used, nearly black unless read with --bits={usual}",
            [f"{_place_text(place)}: {used} bits" for place, used in report.few_bits],
        )
    for title, groups in (
        ("images that are in more than one split", shared),
        ("images that have more than one class", contradictory),
        ("images that are more than once in a split", copies),
        *([("images that look alike in several splits or classes", alike)] if alike else []),
    ):
        lines += _section(title, [" = ".join(_place_text(p) for p in group.places[:5]) for group in groups])
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


def _place_text(place: Place) -> str:
    return f"{place.split} {place.name} ({place.class_name})"
