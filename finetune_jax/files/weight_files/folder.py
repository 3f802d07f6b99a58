"""Folders of weights: the one file in them, or the shards that an index lists."""

import json
from collections.abc import Sequence
from pathlib import Path

from finetune_jax.errors import DAMAGE, readable
from finetune_jax.files.weight_files.refusals import BadFile

# As Hugging Face, timm and open_clip name what a folder is about, in the order in which they look.
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")
_INDEX = ".index.json"
_MOST_SHARDS = 10_000


def holds_weights(path: Path) -> bool:
    """Whether a folder is one of weights, and not the directory of a run."""
    if any((path / name).exists() for name in ("flags.json", "checkpoints", "compact")):
        return False
    return any(file.name in _NAMES or file.suffix.lower() in _SUFFIXES for file in path.iterdir())


def weight_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files that together hold the weights of a path: itself, or those of a folder or an index.

    Raises:
        BadFile: a folder without weights or with several, or an index that is damaged or leads elsewhere.
    """
    if path.is_dir():
        for name in _NAMES:
            if (path / name).is_file():
                return weight_files(path / name, suffixes)
        files = sorted(
            file for file in path.iterdir() if file.is_file() and file.name.lower().endswith(tuple(suffixes))
        )
        if len(files) != 1:
            content = ", ".join(readable(file.name, 60) for file in files[:4]) or "none"
            raise BadFile(f"is a directory; name a file of weights inside it ({content})")
        return files
    if path.name.endswith(_INDEX):
        return _shards(path)
    return [path]


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except OSError as error:
        raise BadFile(f"cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        raise BadFile(f"is no intact index of shards ({readable(error, 100)}); fetch it again") from error
    if not names or len(names) > _MOST_SHARDS:
        raise BadFile("is an index without shards; fetch it again")
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", "..") or "\0" in name:
            raise BadFile(f"names {readable(repr(name), 60)}, which is no file beside it; it is refused")
        if not (index.parent / name).is_file():
            raise BadFile(f"names the shard {readable(name, 60)}, which is not there; fetch it too")
    return [index.parent / name for name in sorted(names)]
