"""The image files that words of a command line name: files, folders, patterns, lists and tables."""

import glob
from collections.abc import Sequence
from pathlib import Path

from finetune_jax.data import folder, table
from finetune_jax.errors import UserError, readable

_LISTS = (".txt", ".lst", ".list")
_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_PATTERN = "*?["


def named(words: Sequence[str], *, columns: Sequence[str] = (), image_root: str = "") -> list[Path]:
    """All image files that are named, in this order.

    A file is itself; a folder is all images below it; a pattern (``photos/*.jpg``, ``**`` for folders at any depth) is
    what it matches; a text file has one path per line; a table (``csv:FILE`` or by its suffix) has a column of images.
    Paths in lists and tables count from the folder of the list, or from ``image_root``. That a listed file is not there
    is found out when it is read.

    Args:
        words: of the command line.
        columns: of a table, see ``table.read``.
        image_root: folder that paths in lists and tables count from.

    Raises:
        UserError: something named does not exist, or names no image.
    """
    files: list[Path] = []
    for word in words:
        kind, separator, rest = word.partition(":")
        path = Path(word).expanduser()
        if separator and kind == "csv" and rest:
            files += table.image_paths(rest, columns=columns, image_root=image_root)
        elif path.suffix.lower() in _TABLES and path.is_file():
            files += table.image_paths(word, columns=columns, image_root=image_root)
        elif path.suffix.lower() in _LISTS and path.is_file():
            files += _listed(path, image_root)
        elif any(letter in word for letter in _PATTERN) and not path.exists():
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise UserError(f"{readable(word)} matches no file; looked in {readable(Path().absolute())}")
            files += folder.listed_images(matches)
        else:
            files += folder.listed_images([path])
    return files


def _listed(path: Path, image_root: str) -> list[Path]:
    root = Path(image_root).expanduser() if image_root else path.parent
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{readable(path)} cannot be read as a list of images: {readable(error)}") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UserError(f"{readable(path)} lists no images; write one path per line")
    return [root / name for name in names]
