"""Images in one folder per class, optionally below ``train/``, ``validation/`` (or ``val/``), ``test/``.

Retrieval may have its test images in two folders: ``query/`` (or ``test/``), and ``gallery/`` to search in.
"""

import hashlib
import os
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune_jax.data import index
from finetune_jax.data.decode import read_image
from finetune_jax.data.examples import Examples, Source, fingerprint_of
from finetune_jax.data.parallel import ordered_map
from finetune_jax.errors import UserError

SUFFIXES = frozenset(  # of what decode.py reads
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pnm",
    )
)
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_RETRIEVAL_SPLITS = {**_SPLITS, "query": "test", "gallery": "gallery"}
_RACY_NS = 2_000_000_000  # a file changed less than two seconds ago may change again within one clock tick


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int


def read(
    root: str,
    *,
    open_classes: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Source:
    """Lists a folder of images and fingerprints their content; decodes nothing.

    Files below a class folder belong to that class, however deep. Hidden files and folders are left out, and
    so is what has no image suffix. Classes and files are in the order of their names, whatever the file
    system says.

    Args:
      root: The folder.
      open_classes: Whether validation and test may have classes that training has not (retrieval); these
        are numbered after those of training.
      cache_dir: Where digests of files are remembered by path, size and modification time.
      workers: Number of threads that read files, see `ordered_map`.
      progress: Whether to show a bar while files are read.

    Returns:
      A source with the splits that have a folder.

    Raises:
      UserError: With one sentence, for everything that is wrong with the folders. Images are not looked at.
    """
    folder = Path(root).expanduser()
    if not folder.exists():
        raise UserError(f"--dataset=folder:{root}: there is no such folder, {folder.absolute()}")
    if not folder.is_dir():
        raise UserError(
            f"--dataset=folder:{root}: this is a file; name the folder that holds the class folders"
        )
    files: dict[str, dict[str, list[_File]]] = {}
    ignored: Counter[str] = Counter()
    for split, split_folder in _split_folders(folder, _RETRIEVAL_SPLITS if open_classes else _SPLITS).items():
        files[split] = _class_files(split_folder, ignored)
    class_names, notes = _class_names(folder, files, open_classes)
    if ignored:
        kinds = ", ".join(suffix or "no suffix" for suffix, _ in ignored.most_common(5))
        notes += (f"{ignored.total()} files are no images by their suffix and were left out ({kinds})",)
    return Source(
        name=f"folder:{root}",
        class_names=class_names,
        splits=_examples(folder, files, class_names, cache_dir, workers, progress),
        notes=notes,
    )


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UserError(f"--dataset: cannot list the folder {folder}: {error.strerror}") from error


def _split_folders(root: Path, known: Mapping[str, str]) -> dict[str, Path]:
    """The folder of each split; of the training split alone where classes lie at the top.

    Args:
      root: of the data set.
      known: folder name in small letters to split.
    """
    names = [entry.name for entry in _visible(root) if entry.is_dir()]
    of_splits = [name for name in names if name.lower() in known]
    others = [name for name in names if name.lower() not in known]
    # A class may be called "train" too, between "tram" and "truck".
    if not of_splits or (others and not any(_has_folders(root / name) for name in of_splits)):
        return {"train": root}
    if others:
        raise UserError(
            f"{root} holds folders of splits ({', '.join(of_splits)}) beside other folders "
            f"({_some(others)}): move the class folders into train/, validation/ and test/"
        )
    folders: dict[str, Path] = {}
    for name in of_splits:
        split = known[name.lower()]
        if split in folders:
            raise UserError(f"{root} has both {folders[split].name}/ and {name}/: keep one of them")
        folders[split] = root / name
    if "train" not in folders:
        raise UserError(f"{root} has {', '.join(of_splits)} but no train/: add it")
    if "gallery" in folders and "test" not in folders:
        raise UserError(f"{root} has gallery/ but no query/: add the images that are searched for")
    order = dict.fromkeys(known.values())
    return {split: folders[split] for split in order if split in folders}


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _visible(folder))


def _class_files(folder: Path, ignored: Counter[str]) -> dict[str, list[_File]]:
    """The images of each class below `folder`, both in the order of their names."""
    entries = _visible(folder)
    loose = [entry.name for entry in entries if not entry.is_dir() and _suffix(entry.name) in SUFFIXES]
    if loose:
        raise UserError(
            f"{folder} holds images that are in no class folder ({_some(loose)}): "
            "move each into a folder named after its class"
        )
    classes: dict[str, list[_File]] = {}
    for entry in entries:
        if entry.is_dir():
            # macOS and Linux write accents differently; a class must be one class on both.
            name = unicodedata.normalize("NFC", _printable(entry.name))
            if name in classes:
                raise UserError(f"{folder} has two folders named {name}: keep one of them")
            classes[name] = list(_images_below(Path(entry.path), frozenset(), ignored))
    if not classes:
        raise UserError(
            f"{folder} holds no class folders: put the images of each class into a folder of its own"
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise UserError(
            f"{folder} has class folders without images ({_some(empty)}): add images or remove the folders"
        )
    return classes


def _images_below(folder: Path, above: frozenset[tuple[int, int]], ignored: Counter[str]) -> Iterator[_File]:
    """Depth first, in the order of the names."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a symbolic link back to one of the folders we are in
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _images_below(Path(entry.path), above | {here}, ignored)
        elif _suffix(entry.name) not in SUFFIXES:
            ignored[_suffix(entry.name)] += 1
        elif entry.is_file():
            status = entry.stat()
            yield _File(entry.path, status.st_size, status.st_mtime_ns)
        elif entry.is_symlink():  # a dead link: reading it will say so
            yield _File(entry.path, 0, 0)


def _class_names(
    root: Path, files: Mapping[str, Mapping[str, list[_File]]], open_classes: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All class names, those of training first, and notes on what differs between the splits."""
    known = sorted(files["train"])
    if len(known) < 2:
        raise UserError(
            f"{root} has a single training class ({known[0]}): at least two class folders are needed"
        )
    notes: list[str] = []
    for split in files:
        unknown = sorted(set(files[split]) - set(known))
        missing = sorted(set(known) - set(files[split]))
        if open_classes:
            known += unknown
        elif unknown:
            raise UserError(
                f"{root}: the {split} split has classes that train has not ({_some(unknown)}): "
                f"add them to train, remove them from {split}, or set --protocol=retrieval"
            )
        elif missing:
            notes.append(f"{split}: no images of {len(missing)} classes ({_some(missing)})")
    return tuple(known), tuple(notes)


def _examples(
    root: Path,
    files: Mapping[str, Mapping[str, list[_File]]],
    class_names: tuple[str, ...],
    cache_dir: str | os.PathLike[str] | None,
    workers: int | None,
    progress: bool,
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
    every_file = [file for members in listed.values() for _, file in members]
    digests = iter(_digests(root, every_file, cache_dir, workers, progress))
    splits: dict[str, Examples] = {}
    for split, members in listed.items():
        paths = [file.path for _, file in members]
        names = [_printable(path) for path in paths]
        splits[split] = Examples(
            labels=np.array([number for number, _ in members], np.int32),
            names=names,
            read=_reader(paths, names),
            fingerprint=fingerprint_of("files", *(next(digests) for _ in members)),
        )
    return splits


def _reader(paths: list[str], names: list[str]) -> Callable[[int], np.ndarray]:
    return lambda index: read_image(paths[index], names[index])


def _digests(
    root: Path,
    files: list[_File],
    cache_dir: str | os.PathLike[str] | None,
    workers: int | None,
    progress: bool,
) -> list[str]:
    """Hex digest of the content of every file, unchanged files not being read again."""
    key = fingerprint_of("folder", os.path.realpath(root))
    known = index.recall(cache_dir, key)
    started_ns = time.time_ns()
    digests: list[str | None] = []
    for file in files:
        entry = known.get(file.path)
        if isinstance(entry, list) and entry[:2] == [file.size, file.mtime_ns]:
            digests.append(entry[2])
        else:
            digests.append(None)
    unread = [number for number, digest in enumerate(digests) if digest is None]
    if unread:
        read = ordered_map(
            lambda i: _digest(files[unread[i]].path),
            len(unread),
            workers=workers,
            progress=progress,
            title="reading files",
        )
        for number, digest in zip(unread, read, strict=True):
            digests[number] = digest
        entries = {
            file.path: [file.size, file.mtime_ns, digest]
            for file, digest in zip(files, digests, strict=True)
            if digest and file.mtime_ns < started_ns - _RACY_NS
        }
        index.remember(cache_dir, key, entries)
    return [digest or "" for digest in digests]


def _digest(path: str) -> str:
    """Empty where the file cannot be read: whoever decodes it will say why."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _printable(name: str) -> str:
    """File names are bytes; those that are no UTF-8 would make every message and table fail."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def _some(names: list[str]) -> str:
    return ", ".join(_printable(name) for name in names[:10]) + (
        f" and {len(names) - 10} more" * (len(names) > 10)
    )


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The image files named, and all below the folders named, each in the order of their names.

    Raises:
      UserError: Something named does not exist, or there is no image in it.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = [Path(file.path) for file in _images_below(path, frozenset(), Counter())]
            if not below:
                raise UserError(f"{path} holds no images")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist; looked for {path.absolute()}")
    return found
