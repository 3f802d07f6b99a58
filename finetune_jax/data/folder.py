"""Images in one folder per class, optionally below ``train/``, ``validation/`` (or ``val/``), ``test/``.

Retrieval may have its test images in two folders: ``query/`` (or ``test/``), and ``gallery/`` to search in.
"""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_jax.data import folder_layout, formats, image_files
from finetune_jax.data.decode import Decoding
from finetune_jax.data.examples import Examples, Source
from finetune_jax.data.file_tree import File, LeftOut, counted_suffixes, images_below, subfolders
from finetune_jax.data.folder_layout import some
from finetune_jax.data.image_files import Reading
from finetune_jax.data.split_rules import BY_CONTENT
from finetune_jax.errors import UserError, readable

_Classes = dict[str, list[File]]


def read(
    root: str,
    *,
    open_classes: bool = False,
    made_splits: Sequence[str] = (),
    by_folder: bool = False,
    list_findings: bool = False,
    decoding: Decoding | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
    manifest_from: float = math.inf,
) -> Source:
    """Lists a folder of images and fingerprints their content; decodes at most a miniature of each.

    Files below a class folder belong to that class, however deep. Left out, with a note, are hidden files and
    folders, folders that systems and tools make, directories of runs, and what has no image suffix. Classes and
    files are in the order of their names, whatever the file system says.

    Args:
      root: The folder.
      open_classes: Whether validation and test may have classes that training has not (retrieval); these
        are numbered after those of training.
      made_splits: Splits that will be carved out of the training images where they have no folder; what the
        images look like is then found out too, so that near-duplicates can stay together.
      by_folder: Whether the images of one folder, below that of the class, are a group that splits keep together.
      list_findings: Whether the source is to be checked: class folders without images are left out and listed in
        its `findings`, instead of being refused, and what the images look like is found out in any case.
      decoding: Of the images.
      cache_dir: Where digests of unchanged files are remembered.
      workers: Number of threads that read files, see `ordered_map`.
      progress: Whether to show a bar while files are read.
      manifest_from: Number of files from which none is read, see ``digests.of_manifest``; what they look like is then
        not known.

    Returns:
      A source with the splits that have a folder.

    Raises:
      UserError: With one sentence, for everything that is wrong with the folders. Images are not looked at.
    """
    folder = Path(root).expanduser()
    shown = readable(root)
    if not folder.exists():
        raise UserError(f"--dataset=folder:{shown}: there is no such folder, {readable(folder.absolute())}")
    if not folder.is_dir():
        raise UserError(
            f"--dataset=folder:{shown}: this is a file; name the folder that holds the class folders"
        )
    left_out = LeftOut()
    known = folder_layout.RETRIEVAL_SPLIT_NAMES if open_classes else folder_layout.SPLIT_NAMES
    split_folders, notes = folder_layout.split_folders(folder, known, left_out, by_folder=by_folder)
    empty: dict[str, Counter[str]] = {}
    files = {
        split: _class_files(split_folder, left_out, empty) for split, split_folder in split_folders.items()
    }
    findings = _about_empty(folder, empty, refuse=not list_findings)
    class_names, more_notes = _class_names(folder, files, open_classes, findings)
    looks = list_findings or any(split not in files for split in made_splits)
    reading = Reading(decoding or Decoding(), cache_dir, workers, progress, looks, manifest_from)
    splits = _examples(folder, files, class_names, reading)
    if by_folder:
        splits = {
            split: examples.grouped([os.path.dirname(name) for name in examples.names])
            for split, examples in splits.items()
        }
    return Source(
        name=f"folder:{root}",
        class_names=class_names,
        splits=splits,
        notes=(*notes, *more_notes, *left_out.notes(), *_advice(left_out)),
        root=image_files.readable_root(folder),
        findings=findings,
        split_rule=BY_CONTENT,
    )


def _class_files(folder: Path, left_out: LeftOut, empty: dict[str, Counter[str]]) -> _Classes:
    """The images of each class below `folder`, both in the order of their names.

    Args:
      folder: Of the classes.
      left_out: Counts what is passed over.
      empty: Gets the path of each class folder without images, and the suffixes in it.
    """
    if loose := folder_layout.loose_images(folder):
        raise folder_layout.loose_images_error(folder, loose)
    classes: _Classes = {}
    for entry in subfolders(folder, left_out):
        # macOS and Linux write accents differently; a class must be one class on both.
        name = unicodedata.normalize("NFC", readable(entry, image_files.NAME_LENGTH))
        if name in classes or os.fspath(folder / name) in empty:
            raise UserError(f"{readable(folder)} has two folders named {name}: keep one of them")
        before = Counter(left_out.suffixes)
        images = list(images_below(folder / entry, left_out))
        if images:
            classes[name] = images
        else:
            empty[os.fspath(folder / entry)] = left_out.suffixes - before
    if not classes and not empty:
        raise UserError(
            f"{readable(folder)} holds no class folders: put the images of each class into a folder of its own"
        )
    return classes


def _about_empty(root: Path, empty: Mapping[str, Counter[str]], *, refuse: bool) -> tuple[str, ...]:
    """One sentence about class folders without images, if there are any."""
    if not empty:
        return ()
    shown = []
    for path, suffix_counts in empty.items():
        counted = formats.unreadable_images(suffix_counts) or Counter(
            {"": suffix_counts[""]} if suffix_counts[""] else {}
        )
        shown.append(os.path.relpath(path, root) + (f": {counted_suffixes(counted)}" if counted else ""))
    every: Counter[str] = sum(empty.values(), Counter())
    nameless = every[""] > sum(every.values()) / 2
    suffixes = "give the files the suffix of their format (.jpg, .png)" if nameless else ""
    advice = formats.advice(every) or suffixes or "add images or remove the folders"
    sentence = f"{readable(root)} has class folders without images ({some(shown)}): {advice}"
    if refuse:
        raise UserError(sentence)
    return (sentence,)


def _advice(left_out: LeftOut) -> tuple[str, ...]:
    """What to do about images among the files that are left out."""
    unread = formats.unreadable_images(left_out.suffixes)
    if not unread:
        return ()
    return (f"{unread.total()} images cannot be read ({counted_suffixes(unread)}): {formats.advice(unread)}",)


def _class_names(
    root: Path,
    files: Mapping[str, Mapping[str, list[File]]],
    open_classes: bool,
    findings: Sequence[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All class names, those of training first, and notes on what differs between the splits."""
    known = sorted(files["train"])
    if len(known) < 2:
        if findings:
            raise UserError(f"{findings[0]}; at least two classes with images are needed")
        raise UserError(
            f"{readable(root)} has a single training class ({known[0]}): at least two class folders are needed"
        )
    notes: list[str] = []
    for split in files:
        unknown = sorted(set(files[split]) - set(known))
        missing = sorted(set(known) - set(files[split]))
        if open_classes:
            known += unknown
        elif unknown:
            raise UserError(
                f"{readable(root)}: the {split} split has classes that train has not ({some(unknown)}): "
                f"add them to train, remove them from {split}, or set --protocol=retrieval"
            )
        elif missing:
            notes.append(f"{split}: no images of {len(missing)} classes ({some(missing)})")
    return tuple(known), tuple(notes)


def _examples(
    root: Path,
    files: Mapping[str, Mapping[str, list[File]]],
    class_names: tuple[str, ...],
    reading: Reading,
) -> dict[str, Examples]:
    numbers = {name: number for number, name in enumerate(class_names)}
    listed = {
        split: [
            (numbers[name], file)
            for name in sorted(classes, key=numbers.__getitem__)
            for file in classes[name]
        ]
        for split, classes in files.items()
    }
    return image_files.examples(os.fspath(root), listed, reading)


def contains(dataset: str, path: str | os.PathLike[str]) -> bool:
    """Whether a path lies inside the folder that a ``--dataset`` names."""
    kind, _, place = dataset.partition(":")
    if kind != "folder" or not place or not os.fspath(path):
        return False
    root = os.path.realpath(os.path.expanduser(place))
    inside = os.path.realpath(os.path.expanduser(os.fspath(path)))
    return inside == root or inside.startswith(root.rstrip(os.sep) + os.sep)


def listed_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files named, and all below the folders named, each in the order of their names.

    Raises:
      UserError: Something named does not exist, or there is no image in it.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            left_out = LeftOut()
            below = [Path(file.path) for file in images_below(path, left_out)]
            if not below:
                others = f" ({counted_suffixes(left_out.suffixes)})" if left_out.suffixes else ""
                advice = formats.advice(left_out.suffixes)
                raise UserError(
                    f"{readable(path)} holds no images{others}" + (f": {advice}" if advice else "")
                )
            files += below
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{readable(path)} does not exist; looked for {readable(path.absolute())}")
    return files
