"""Images listed in a table: ``csv:FILE``, with columns for image, label, and perhaps split, group and weight.

Files are comma-, semicolon-, tab- or blank-separated by their suffix or content, or Parquet. Which column is what is
guessed from the names and said in a note, or given as ``--columns=image=filename,label=species``.
"""

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from finetune_jax.data import folder_layout, image_files, image_weights, table_labels
from finetune_jax.data.decode import Decoding
from finetune_jax.data.examples import Source
from finetune_jax.data.file_tree import File
from finetune_jax.data.formats import suffixes
from finetune_jax.data.image_files import Reading
from finetune_jax.data.split_rules import BY_CONTENT
from finetune_jax.errors import UserError, readable

ROLES = ("image", "label", "split", "group", "weight")
"""What a column may be."""

_GUESSES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *("image", "images", "filename", "file_name", "file", "path", "filepath", "file_path", "image_path"),
        *("image_name", "imagename", "img", "img_path", "image_file", "image_id", "id", "name"),
    ),
    "label": (
        *("label", "labels", "class", "class_name", "classname", "target", "category", "species", "y"),
        *("diagnosis", "dx", "breed", "tag", "tags"),
    ),
    "split": ("split", "set", "subset", "partition", "phase", "usage"),
    "group": (),  # only by --group_by: a guessed group would change the splits
    "weight": (),  # a guessed weight would change what is learned
}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SNIFFED = 64 * 1024
_LONGEST_CELL = 1 << 20


class Columns(NamedTuple):
    """Names of the columns; None for what the table does not have."""

    image: str
    labels: tuple[str, ...]
    split: str | None = None
    group: str | None = None
    weight: str | None = None


class _Row(NamedTuple):
    """What the columns of a row say."""

    image: str
    number: int
    labels: tuple[str, ...]
    group: str
    weight: str


def read(
    file: str,
    *,
    columns: Sequence[str] = (),
    image_root: str = "",
    group_by: str = "",
    task: str = "auto",
    label_delimiter: str = "",
    open_classes: bool = False,
    made_splits: Sequence[str] = (),
    decoding: Decoding | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
    manifest_from: float = math.inf,
) -> Source:
    """Reads a table and fingerprints the images it names.

    Args:
      file: The table.
      columns: ``ROLE=COLUMN`` for each role that is not to be guessed.
      image_root: Folder that relative image paths count from; empty is the table's own.
      group_by: Column whose equal values stay on one side of splits that are made; ``folder`` is the image's folder.
      task: As of ``--task``; ``auto`` finds out by the labels.
      label_delimiter: Between several labels of an image; empty is guessed.
      open_classes: Whether validation and test may have classes that training has not (retrieval).
      made_splits: Splits that will be made where the table has none; what the images look like is then found out.
      decoding: Of the images.
      cache_dir: Where digests of unchanged files are remembered.
      workers: Number of threads that read files.
      progress: Whether to show a bar while files are read.
      manifest_from: Number of files from which none is read, see ``digests.of_manifest``.

    Returns:
      A source with the splits that the table names; with all images in ``train`` where it names none.

    Raises:
      UserError: The table cannot be read, a column or file is missing, a label is empty, an image is listed twice, or
        a split is not understood; names the row.
    """
    path = Path(file).expanduser()
    shown = readable(file)
    rows = _rows(path, shown)
    try:
        header = next(rows)
    except StopIteration:
        raise UserError(f"--dataset=csv:{shown}: the table is empty") from None
    used, guessed = _columns(header, columns, group_by, shown)
    places = {name: index for index, name in enumerate(header)}
    root = Path(image_root).expanduser() if image_root else path.parent
    listed: dict[str, list[_Row]] = {}
    seen: dict[str, int] = {}
    rows_of: dict[str, int] = {}  # as seen, by the whole path
    for number, cells in enumerate(rows, 2):
        split, row = _row(cells, used, places, number, shown, open_classes)
        file_of_row = os.path.normpath(os.path.join(root, row.image))
        if file_of_row in rows_of:
            raise UserError(
                f"--dataset=csv:{shown}: rows {rows_of[file_of_row]} and {number} name the same image, "
                f"{readable(row.image)}; an image has one label"
            )
        seen[row.image] = rows_of[file_of_row] = number
        listed.setdefault(split, []).append(row)
    if "train" not in listed:
        raise UserError(
            f"--dataset=csv:{shown}: "
            + ("no row is of the training split" if listed else "the table has a header and no rows")
        )
    understood = table_labels.read(
        {
            split: table_labels.Cells([row.number for row in rows], [row.labels for row in rows])
            for split, rows in listed.items()
        },
        used.labels,
        task=task,
        delimiter=label_delimiter,
        open_classes=open_classes,
        shown=shown,
    )
    suffix = _suffix(root, next(iter(seen)))
    files = _files(root, seen, suffix, shown)
    looks = any(split not in listed for split in made_splits)
    reading = Reading(decoding or Decoding(), cache_dir, workers, progress, looks, manifest_from)
    members = {
        split: [
            (int(label), files[row.image]) for label, row in zip(understood.labels[split], rows, strict=True)
        ]
        for split, rows in listed.items()
    }
    splits = image_files.examples(os.path.abspath(path), members, reading)
    if understood.targets is not None:
        targets = understood.targets
        splits = {split: examples.with_targets(targets[split]) for split, examples in splits.items()}
    if used.group or group_by == "folder":
        groups = {split: [_group(row, group_by) for row in rows] for split, rows in listed.items()}
        _refuse_groups_on_two_sides(groups, shown)
        splits = {split: examples.grouped(groups[split]) for split, examples in splits.items()}
    weighed: tuple[str, ...] = ()
    if used.weight:
        weights = image_weights.of_column(
            {split: [row.weight for row in rows] for split, rows in listed.items()},
            {split: [row.number for row in rows] for split, rows in listed.items()},
            used.weight,
            f"--dataset=csv:{shown}",
        )
        weighed = (image_weights.note(weights["train"]),)
        splits = {split: examples.with_weights(weights[split]) for split, examples in splits.items()}
    return Source(
        name=f"csv:{file}",
        class_names=understood.class_names,
        splits=splits,
        notes=(*guessed, *understood.notes, *weighed),
        root=image_files.readable_root(root),
        split_rule=BY_CONTENT,
        task=understood.task,
    )


def image_paths(file: str, *, columns: Sequence[str] = (), image_root: str = "") -> list[Path]:
    """The image files that a table names, which need not be there; its other columns do not matter.

    Args:
      file: The table.
      columns: ``image=COLUMN`` where the column is not known by its name.
      image_root: Folder that relative image paths count from; empty is the table's own.

    Raises:
      UserError: The table cannot be read, or has no column or no row of images.
    """
    path = Path(file).expanduser()
    shown = readable(file)
    rows = _rows(path, shown)
    header = next(rows, None)
    if header is None:
        raise UserError(f"csv:{shown}: the table is empty")
    used, _ = _columns(header, columns, "", shown, labelled=False)
    place = list(header).index(used.image)
    names = [row[place] for row in rows if len(row) > place and row[place]]
    if not names:
        raise UserError(f"csv:{shown}: the table names no image")
    root = Path(image_root).expanduser() if image_root else path.parent
    suffix = _suffix(root, names[0])
    return [root / f"{name}{suffix}" for name in names]


def _rows(path: Path, shown: str) -> Iterator[list[str]]:
    """Header and rows of a table, as text."""
    if not path.is_file():
        raise UserError(f"--dataset=csv:{shown}: there is no such file, {readable(path.absolute())}")
    if path.suffix.lower() in (".parquet", ".pq"):
        yield from _parquet_rows(path, shown)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            delimiter = _delimiter(path, opened.read(_SNIFFED), shown)
            opened.seek(0)
            csv.field_size_limit(_LONGEST_CELL)
            for row in csv.reader(opened, delimiter=delimiter, skipinitialspace=True):
                if any(cell.strip() for cell in row):
                    yield [cell.strip() for cell in row]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--dataset=csv:{shown} is no UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise UserError(f"--dataset=csv:{shown} cannot be read: {readable(error)}") from error


def _delimiter(path: Path, start: str, shown: str) -> str:
    first = start.partition("\n")[0]
    if "\0" in start:
        raise UserError(f"--dataset=csv:{shown} is no text file")
    expected = _DELIMITERS.get(path.suffix.lower())
    if expected and expected in first:
        return expected
    counts = {delimiter: first.count(delimiter) for delimiter in ("\t", ";", ",", " ")}
    return max(counts, key=lambda delimiter: counts[delimiter]) if any(counts.values()) else ","


def _parquet_rows(path: Path, shown: str) -> Iterator[list[str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f'--dataset=csv:{shown} is a Parquet file, which needs pyarrow: pip install "finetune-jax[parquet]"'
        ) from error
    try:
        table = parquet.ParquetFile(path)
        yield list(table.schema_arrow.names)
        for batch in table.iter_batches():
            for row in zip(*[column.to_pylist() for column in batch.columns], strict=True):
                yield [table_labels.cell_of(value) for value in row]
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"--dataset=csv:{shown} cannot be read: {readable(error)}") from error


def _columns(
    header: Sequence[str], texts: Sequence[str], group_by: str, shown: str, *, labelled: bool = True
) -> tuple[Columns, tuple[str, ...]]:
    """The column of each role, and a note on what was guessed; without ``labelled`` there may be no labels."""
    there = f"the table has the columns {readable(', '.join(header))}"
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"--dataset=csv:{shown}: two columns are called {readable(twice[0])}; {there}")
    roles: dict[str, str] = {}
    patterns: list[str] = []
    for text in texts:
        role, separator, column = text.partition("=")
        if role not in ROLES or not separator:
            raise UserError(
                f"--columns={readable(text)}: give ROLE=COLUMN with one of the roles {', '.join(ROLES)}"
            )
        if role == "label":
            patterns.append(column)
        elif column not in header:
            raise UserError(f"--columns={readable(text)}: there is no column {readable(column)}; {there}")
        else:
            roles[role] = column
    if group_by and group_by != "folder":
        if group_by not in header:
            raise UserError(
                f"--group_by={readable(group_by)}: there is no such column; {there}, or give folder"
            )
        roles["group"] = group_by
    small = {name.lower(): name for name in header}
    guessed = {}
    for role, words in _GUESSES.items():
        if role not in roles and not (role == "label" and patterns):
            taken = {*roles.values(), *patterns}
            fitting = [small[word] for word in words if word in small and small[word] not in taken]
            if fitting:
                guessed[role] = roles[role] = fitting[0]
    labels = [roles.pop("label")] if "label" in roles else []
    for pattern in patterns:
        matching = table_labels.chosen_columns(pattern, header, list(roles.values()))
        if not matching:
            raise UserError(
                f"--columns=label={readable(pattern)}: there is no column {readable(pattern)}; {there}"
            )
        labels += [name for name in matching if name not in labels]
    for role, known in (("image", "image" in roles), ("label", bool(labels) or not labelled)):
        if not known:
            raise UserError(
                f"--dataset=csv:{shown}: none of its columns is known to hold the {role}; {there}; "
                f"give --columns={role}=COLUMN"
            )
    if len({*roles.values(), *labels}) < len(roles) + len(labels):
        raise UserError(f"--columns={','.join(texts)}: one column has two roles; {there}")
    note = "columns guessed by their names: " + ", ".join(f"{role}={name}" for role, name in guessed.items())
    used = Columns(roles["image"], tuple(labels), *map(roles.get, ("split", "group", "weight")))
    unused = [name for name in header if name.lower() in image_weights.USUAL_NAMES]
    unused = [] if used.weight else [name for name in unused if name not in (*roles.values(), *labels)]
    hints = [
        f"the column {readable(name)} is not used; with --columns=weight={readable(name)} the loss of each image is "
        "multiplied by it"
        for name in unused[:1]
    ]
    return used, (*([note] if guessed else []), *hints)


def _row(
    row: Sequence[str], used: Columns, places: Mapping[str, int], number: int, shown: str, open_classes: bool
) -> tuple[str, _Row]:
    """The split that a row is of, and what else it says."""
    if len(row) != len(places):
        raise UserError(
            f"--dataset=csv:{shown}: row {number} has {len(row)} cells and the header {len(places)}"
        )
    values = {
        role: row[places[column]]
        for role, column in used._asdict().items()
        if column is not None and role != "labels"
    }
    if not values["image"]:
        raise UserError(f"--dataset=csv:{shown}: row {number} has no image (column {used.image})")
    split = "train"
    if used.split is not None:
        known = folder_layout.RETRIEVAL_SPLIT_NAMES if open_classes else folder_layout.SPLIT_NAMES
        understood = folder_layout.split_of(values["split"], known)
        if understood is None:
            raise UserError(
                f"--dataset=csv:{shown}: row {number} is of the split {readable(values['split']) or 'without a name'}, "
                "which is none of train, validation and test; correct it, or give --columns=split=COLUMN"
            )
        split = understood
    labels = tuple(row[places[column]] for column in used.labels)
    return split, _Row(values["image"], number, labels, values.get("group", ""), values.get("weight", ""))


def _suffix(root: Path, image: str) -> str:
    """What the table leaves out of the names of its files, by the first of them."""
    if (root / image).exists():
        return ""
    known = sorted(suffixes())
    return next((suffix for suffix in known if (root / f"{image}{suffix}").exists()), "")


def _files(root: Path, rows: Mapping[str, int], suffix: str, shown: str) -> dict[str, File]:
    """The file of each image; ``rows`` has the row that names it."""
    files, missing = {}, []
    for image, number in rows.items():
        path = os.path.join(root, image + suffix)
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            missing.append((image, number))
            continue
        files[image] = File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if missing:
        image, number = missing[0]
        which = f"{readable(image)}, which is"
        if len(missing) > 1:
            which = f"{readable(image)} and {len(missing) - 1} more, which are"
        raise UserError(
            f"--dataset=csv:{shown}: row {number} names {which} not below {readable(root.absolute())}; paths "
            "count from there, give --image_root=FOLDER for another place"
        )
    return files


def _group(row: _Row, group_by: str) -> str:
    return os.path.dirname(row.image) if group_by == "folder" else row.group


def _refuse_groups_on_two_sides(groups: Mapping[str, Sequence[str]], shown: str) -> None:
    sides: dict[str, str] = {}
    for split, names in groups.items():
        for name in names:
            if sides.setdefault(name, split) != split:
                raise UserError(
                    f"--dataset=csv:{shown}: the group {readable(name)} is in the splits {sides[name]} and {split}, "
                    "so the score would be of images the network has learned by; correct the split column"
                )
