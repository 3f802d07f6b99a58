"""The data of a run as its config asks for it: opened, split, decoded."""

import sys
from pathlib import Path

from finetune_jax.config import DataConfig
from finetune_jax.data import cache, sources
from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError

_DIGITS_SIZE = 32
# Test images are resized to 256 and cropped to 224, as AutoLR does; other sizes keep the proportion.
_RESIZE_FACTOR = 256 / 224


def load_source(config: DataConfig, *, silent: bool = False) -> Source:
    """The data set with its three splits; errors as of ``sources.load``."""
    return sources.load(
        config.dataset,
        protocol="retrieval" if config.protocol == "retrieval" else "classification",
        seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        train_on_validation=config.train_on_validation,
        data_dir=config.data_dir or None,
        cache_dir=_cache_dir(config),
        workers=config.decode_workers or None,
        progress=not silent,
    )


def image_size(config: DataConfig, natural_size: int) -> int:
    """Side of the network's input: the flag, else 32 for digits and the network's natural size for photos."""
    if config.image_size:
        return config.image_size
    return _DIGITS_SIZE if config.dataset == "digits" else natural_size


def preprocessing(config: DataConfig, size: int, *, train: bool) -> Preprocessing:
    """How an image becomes ``[size, size, 3]``: stretched, and for evaluation of photos a centre crop.

    Raises:
        UserError: ``--test_resize`` is smaller than the crop.
    """
    if train:
        return Preprocessing(size, size)
    default = size if config.dataset == "digits" else round(size * _RESIZE_FACTOR)
    resize = config.test_resize or default
    if resize < size:
        raise UserError(f"--test_resize={resize} is smaller than the {size} pixels that the network sees")
    return Preprocessing(size, resize)


def materialise(config: DataConfig, source: Source, size: int, *, silent: bool = False) -> dict[str, Arrays]:
    """Decoded images of all splits; errors as of :func:`materialise_split`."""
    return {
        split: materialise_split(
            config,
            examples,
            preprocessing(config, size, train=split == "train"),
            silent=silent,
            title=f"decoding {split} images",
        )
        for split, examples in source.splits.items()
    }


def materialise_split(
    config: DataConfig, examples: Examples, prepared: Preprocessing, *, silent: bool, title: str
) -> Arrays:
    """Decoded images of one split, from the cache where they were decoded before.

    Raises:
        UserError: unreadable images (without ``--skip_unreadable``), or a cache that cannot be written.
    """
    arrays = cache.materialise(
        examples,
        prepared,
        cache_dir=_cache_dir(config),
        workers=config.decode_workers or None,
        progress=not silent,
        skip_unreadable=config.skip_unreadable,
        title=title,
    )
    if arrays.skipped and not silent:
        name, reason = arrays.skipped[0]
        print(
            f"warning: {title}: {len(arrays.skipped)} unreadable images left out, e.g. {name}: {reason}",
            file=sys.stderr,
        )
    return arrays


def _cache_dir(config: DataConfig) -> Path:
    return Path(config.cache_dir or "~/.cache/finetune_jax").expanduser()
