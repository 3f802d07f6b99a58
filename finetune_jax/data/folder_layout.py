"""Which folders of a data set are splits and which are classes, from their names and from what lies in them."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune_jax.data.file_tree import LeftOut, is_folder, subfolders, visible
from finetune_jax.data.formats import suffix_of, suffixes
from finetune_jax.errors import UserError, readable

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
RETRIEVAL_SPLIT_NAMES = {**SPLIT_NAMES, "query": "test", "gallery": "gallery"}
_UNLABELLED = frozenset({"pred", "predict", "prediction", "unlabelled", "unlabeled", "unsup"})
# What may stand behind the name of a split without anything between: trainset, val2017, test1.
_ENDING = re.compile(r"(set|data|images|imgs|folder|dir)?\d*")
_NUMBERED = re.compile(r"(fold|split|part|subset|set|batch|group)[\W_]*([a-z]|\d+)")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*|\d+|[^\W\d_]+")
_NAMED = 10


def split_of(name: str, known: Mapping[str, str] = SPLIT_NAMES) -> str | None:
    """The split that a folder's name speaks of: ``Training``, ``seg_train``, ``images-val``, ``TestSet``; or None.

    Args:
        name: of the folder.
        known: word in small letters to split.
    """
    if name.lower() in known:
        return known[name.lower()]
    splits = {_split_of_word(word.lower(), known) for word in _WORDS.findall(name)} - {None}
    return splits.pop() if len(splits) == 1 else None


def split_folders(
    root: Path, known: Mapping[str, str], left_out: LeftOut, *, by_folder: bool = False
) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split; of the training split alone where classes lie at the top.

    Args:
        root: of the data set.
        known: word in small letters to split.
        left_out: counts what is passed over.
        by_folder: whether equal folders within all classes are meant, as groups.

    Returns:
        Folder of each split, and notes.

    Raises:
        UserError: the folders look like splits and are not understood.
    """
    names = subfolders(root, left_out)
    candidates = {name: split for name in names if (split := split_of(name, known))}
    unlabelled = [name for name in names if name.lower().split("_")[-1] in _UNLABELLED]
    inside = {name: subfolders(root / name) for name in names}
    others = [name for name in names if name not in candidates]
    if not _are_splits(candidates, others, inside, known):
        _refuse_what_looks_like_splits(root, names, {name: [] for name in names} if by_folder else inside)
        return {"train": root}, []
    unknown = [name for name in others if name not in unlabelled]
    if unknown:
        raise UserError(
            f"{readable(root)} holds folders of splits ({some(list(candidates))}) beside other folders "
            f"({some(unknown)}): move the class folders into train/, validation/ and test/"
        )
    notes = [f"{readable(name)}/ was left out, as it has no labels" for name in others]
    return _by_split(root, candidates, inside, list(dict.fromkeys(known.values()))), notes


def _split_of_word(word: str, known: Mapping[str, str]) -> str | None:
    for name, split in known.items():
        if word.startswith(name) and _ENDING.fullmatch(word[len(name) :]):
            return split
    return None


def _are_splits(
    candidates: Mapping[str, str],
    others: Sequence[str],
    inside: Mapping[str, Sequence[str]],
    known: Mapping[str, str],
) -> bool:
    """Whether the folders that are called like splits are splits: a class may be called ``train`` or ``test_tube``."""
    if not candidates:
        return False
    exact = [name for name in candidates if name.lower() in known]
    several = len(set(candidates.values())) > 1
    if any(inside[name] for name in candidates):
        return bool(exact) or several or not others
    # They hold images and no folders: classes, unless there is more than one kind of split and nothing else.
    return (several and not others) or (len(exact) == len(candidates) and not others)


def _by_split(
    root: Path, candidates: Mapping[str, str], inside: Mapping[str, Sequence[str]], order: Sequence[str]
) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    # Beside a test split, eval/ is for validation.
    tests = [name for name, split in candidates.items() if split == "test"]
    for name, split in candidates.items():
        if (
            split == "test"
            and len(tests) > 1
            and "eval" in name.lower()
            and "validation" not in candidates.values()
        ):
            split = "validation"
        if split in folders:
            raise UserError(
                f"{readable(root)} has both {readable(folders[split].name)}/ and {readable(name)}/: keep one of them"
            )
        folder = root / name
        # Archives of some data sets hold train/train/CLASS.
        if len(inside[name]) == 1 and split_of(inside[name][0]) == split_of(name):
            folder /= inside[name][0]
        folders[split] = folder
    if "train" not in folders:
        raise UserError(f"{readable(root)} has {some(list(candidates))} but no train/: add it")
    if "gallery" in folders and "test" not in folders:
        raise UserError(f"{readable(root)} has gallery/ but no query/: add the images that are searched for")
    return {split: folders[split] for split in order if split in folders}


def _refuse_what_looks_like_splits(
    root: Path, names: Sequence[str], inside: Mapping[str, Sequence[str]]
) -> None:
    """Refuse folders that would be taken for classes and hardly are.

    Raises:
        UserError: with what to do.
    """
    if not names or has_images(root):
        return
    if len(names) == 1:
        _refuse_one_folder_too_high(root, names[0])
        return
    with_folders = [name for name in names if inside[name]]
    if len(with_folders) < len(names):
        return
    numbered = [name for name in names if _NUMBERED.fullmatch(name.lower())]
    if len(numbered) == len(names):
        raise UserError(
            f"{readable(root)}: {some(names)} look like splits or parts of a data set, each with class folders: "
            "name them train/, validation/ and test/, or give one of them"
        )
    misspelt = [name for name in names if _nearly_a_split(name)]
    if misspelt:
        raise UserError(
            f"{readable(root)}: {some(misspelt)} looks like a split and is none of the known names: "
            "call the folders train/, validation/ and test/"
        )
    common = inside[names[0]]
    if len(common) > 1 and all(inside[name] == common for name in names):
        if all(split_of(name) for name in common):
            raise UserError(
                f"{readable(root)}: its folders ({some(names)}) each hold {some(common)}: put the splits at the "
                f"top, as {readable(common[0])}/{readable(names[0])}/"
            )
        raise UserError(
            f"{readable(root)}: its folders ({some(names)}) all hold the same folders ({some(common)}): give one of "
            f"them, as --dataset=folder:{readable(root / names[0])}, or move the images of each class into one folder"
        )


def _refuse_one_folder_too_high(root: Path, name: str) -> None:
    """A single folder is no class when it holds the classes, or holds what does."""
    folder = root / name
    while len(below := subfolders(folder)) == 1 and not has_images(folder):
        folder /= below[0]
    if len(below) > 1 and not has_images(folder):
        raise UserError(
            f"{readable(root)} holds a single folder, {readable(name)}/: did you mean "
            f"--dataset=folder:{readable(folder)}?"
        )


def _nearly_a_split(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name) if len(word) >= 4]
    return any(difflib.get_close_matches(word, SPLIT_NAMES, n=1, cutoff=0.75) for word in words)


def loose_images(folder: Path) -> list[str]:
    """Names of the image files that lie in a folder itself."""
    known = suffixes()
    return [e.name for e in visible(folder) if suffix_of(e.name) in known and not is_folder(e)]


def has_images(folder: str | Path) -> bool:
    """Whether image files lie in a folder itself."""
    return bool(loose_images(Path(folder)))


def loose_images_error(folder: Path, loose: Sequence[str]) -> UserError:
    """About images that lie in no class folder; where the folder is itself a class, about the folder above."""
    above = Path(os.path.abspath(folder)).parent
    if not subfolders(folder):
        try:
            classes = [name for name in subfolders(above) if name == folder.name or has_images(above / name)]
        except UserError:
            classes = []
        if len(classes) > 1 and not any(split_of(name) for name in classes) and not has_images(above):
            return UserError(
                f"{readable(folder)} holds images that are in no class folder ({some(loose, 3)}): give the folder "
                f"above, --dataset=folder:{readable(above)}, whose {len(classes)} folders are the classes?"
            )
    return UserError(
        f"{readable(folder)} holds images that are in no class folder ({some(loose, 3)}): "
        "move each into a folder named after its class"
    )


def some(names: Sequence[str], most: int = _NAMED) -> str:
    """The first names, separated by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(readable(name, 80) for name in names[:most]) + more
