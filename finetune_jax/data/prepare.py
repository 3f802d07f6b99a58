"""The data of a run as its config asks for it: opened, split, decoded."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune_jax.config import data_shards, fit_task
from finetune_jax.config.choices import CROPPING, IN_PROPORTION
from finetune_jax.config.settings import DataConfig
from finetune_jax.data import cache, divided, on_demand, sources
from finetune_jax.data.cache import Arrays
from finetune_jax.data.decode import Decoding, Preprocessing
from finetune_jax.data.divided import Division
from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError, readable

_DIGITS_SIZE = 32
# Test images are resized to 256 and cropped to 224, as in the papers; other sizes keep the proportion.
_RESIZE_FACTOR = 256 / 224


def load_source(
    config: DataConfig, *, silent: bool = False, split_rule: int | None = None, list_findings: bool = False
) -> Source:
    """The data set with its three splits; arguments and errors as of ``sources.load``."""
    return sources.load(
        config.dataset,
        protocol="retrieval" if config.protocol == "retrieval" else "classification",
        seed=config.split_seed,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        train_on_validation=config.train_on_validation,
        data_dir=config.data_dir or None,
        cache_dir=cache_folder(config),
        decoding=decoding(config),
        columns=config.columns,
        image_root=config.image_root,
        group_by=config.group_by,
        task=fit_task.task_of(config),
        label_delimiter=config.label_delimiter,
        images_per_class=config.images_per_class,
        folds=config.folds,
        fold=config.fold,
        split_rule=split_rule,
        list_findings=list_findings,
        workers=config.decode_workers or None,
        progress=not silent,
        manifest_from=data_shards.manifest_from(config.data_shards),
    )


def decoding(config: DataConfig) -> Decoding:
    """How image files become pixels."""
    return Decoding(
        bits=config.bits,
        max_pixels=config.max_pixels,
        channels=config.channels,
        percentiles=config.percentiles,
        pages=config.pages,
    )


def image_size(config: DataConfig, natural_size: int) -> int:
    """Side of the network's input: the flag, else 32 for digits and the network's natural size for photos."""
    if config.image_size:
        return config.image_size
    return _DIGITS_SIZE if config.dataset == "digits" else natural_size


def shorter_side(config: DataConfig, size: int) -> int:
    """What the shorter side of an image is resized to before ``size`` pixels are cut out of it: 256 for 224.

    Raises:
        UserError: ``--train_resize`` is smaller than the crop.
    """
    side = config.train_resize or round(size * _RESIZE_FACTOR)
    if side < size:
        raise UserError(f"--train_resize={side} is smaller than the {size} pixels that the network sees")
    return side


def in_proportion(config: DataConfig) -> bool:
    """Whether the network sees images in their proportions, from ``--resize_mode``."""
    if config.resize_mode == "auto":
        return config.augmentation in IN_PROPORTION
    return config.resize_mode == "shorter_side"


def stretched_aspects(config: DataConfig, arrays: Arrays) -> np.ndarray | None:
    """Width over height, float32 ``[N]``, that augmentation needs to undo the stretch of training images, if any."""
    return arrays.aspects if config.augmentation in CROPPING and in_proportion(config) else None


def preprocessing(config: DataConfig, size: int, *, train: bool) -> Preprocessing:
    """How an image is kept: ready for the network, or where training crops, as a larger stretched square.

    Raises:
        UserError: ``--test_resize``, ``--train_resize`` or ``--stored_size`` is smaller than the crop.
    """
    cropping = config.augmentation in CROPPING
    stored = _stored_size(config, size)
    values: dict[str, Any] = {
        name: getattr(config, name) for name in ("bits", "channels", "percentiles", "pages")
    }
    if train and cropping:
        return Preprocessing(stored, stored, **values)
    mode: Literal["stretch", "shorter_side"] = "stretch"
    usual = size if config.dataset == "digits" and not cropping else shorter_side(config, size)
    if in_proportion(config):
        resize, mode = usual, "shorter_side"
    else:
        # Test images look as large as the training images do.
        cut = config.augmentation in ("crop", "random_crop")
        resize = stored if cut else size if train else usual
    if not train and config.test_resize:
        resize = config.test_resize
    if resize < size:
        raise UserError(f"--test_resize={resize} is smaller than the {size} pixels that the network sees")
    return Preprocessing(size, resize, mode, **values)


def _stored_size(config: DataConfig, size: int) -> int:
    """Side of the squares that training crops from."""
    # Most photographs are 4:3. Undoing the stretch of a larger square costs their longer side nothing.
    default = (config.train_resize or size * _RESIZE_FACTOR) * (4 / 3 if in_proportion(config) else 1)
    stored = config.stored_size or round(default)
    if stored < size:
        raise UserError(f"--stored_size={stored} is smaller than the {size} pixels that the network sees")
    return stored


def materialise(
    config: DataConfig,
    source: Source,
    size: int,
    *,
    silent: bool = False,
    division: Division | None = None,
) -> dict[str, Arrays]:
    """Decoded images of all splits with labels; errors as of :func:`materialise_split`.

    Args:
        config: of the data.
        source: the data set.
        size: side of the squares that the network sees.
        silent: whether to show no bar and no warning.
        division: of the images, of which this process decodes its own shards; None decodes all.
    """
    return _materialised(config, source.splits, size, silent, division)


def materialise_unlabelled(
    config: DataConfig,
    source: Source,
    size: int,
    *,
    silent: bool = False,
    division: Division | None = None,
) -> dict[str, Arrays]:
    """Decoded images of the splits without labels; arguments and errors as of :func:`materialise`."""
    return _materialised(config, source.unlabelled, size, silent, division)


def _materialised(
    config: DataConfig,
    splits: Mapping[str, Examples],
    size: int,
    silent: bool,
    division: Division | None,
) -> dict[str, Arrays]:
    decoded = {}
    for split, examples in splits.items():
        prepared = preprocessing(config, size, train=split == "train")

        def of_all(examples: Examples, title: str, prepared: Preprocessing = prepared) -> Arrays:
            return materialise_split(config, examples, prepared, silent=silent, title=title)

        title = f"decoding {split} images"
        if division is None:
            decoded[split] = of_all(examples, title)
        else:
            decoded[split] = divided.materialise(examples, prepared, division, of_all, title=title)
    return decoded


def materialise_split(
    config: DataConfig, examples: Examples, prepared: Preprocessing, *, silent: bool, title: str
) -> Arrays:
    """Decoded images of one split, from the cache where they were decoded before.

    Raises:
        UserError: unreadable images (without ``--skip_unreadable``), or a cache that cannot be written.
    """
    if config.decode == "stream" and len(examples):
        return on_demand.arrays(
            examples,
            prepared,
            # Only of training images that crops take out of a stretched square.
            with_sizes=config.augmentation in CROPPING
            and in_proportion(config)
            and prepared.mode == "stretch",
            workers=config.decode_workers or None,
            progress=not silent,
        )
    arrays = cache.materialise(
        examples,
        prepared,
        cache_dir=cache_folder(config),
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


def cache_folder(config: DataConfig) -> Path:
    """Where decoded images are kept.

    Raises:
        UserError: it is a file.
    """
    folder = Path(config.cache_dir or "~/.cache/finetune_jax").expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--cache_dir={readable(folder)} is a file; name a folder, which may be a new one")
    return folder
