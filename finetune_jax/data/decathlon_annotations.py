"""The annotation files of the Visual Decathlon: the numbers by which its server knows images and classes.

They are COCO-style JSON, ``NAME_train.json``, ``NAME_val.json`` and ``NAME_test_stripped.json`` (without labels) for
each data set, in ``decathlon-1.0/annotations`` of the challenge's devkit.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finetune_jax.errors import UserError

_DATA = "data/"  # what their file names begin with, and those in TFDS do not


class Annotations(NamedTuple):
    """Of one data set.

    Attributes:
        image_ids: ``{file name: number}`` of the test images; file names as in TFDS.
        category_ids: number of each class, in the order of the labels of TFDS.
    """

    image_ids: Mapping[str, int]
    category_ids: tuple[int, ...]


def find(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The annotations that TFDS unpacked when it prepared a data set, if they are still there.

    Args:
        data_dir: where TFDS keeps its data; its own default if None.
    """
    where = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folders = sorted(where.glob("downloads/extracted/*/decathlon-1.0/annotations"))
    return folders[-1] if folders else None


def read(folder: Path, name: str) -> Annotations:
    """Annotations of a data set.

    Args:
        folder: of the devkit's annotations.
        name: of the data set, one of ``decathlon.DATASETS``.

    Raises:
        UserError: a file is missing or damaged.
    """
    # TFDS numbers the classes of training and validation images in the order of these.
    categories = _entries(folder / f"{name}_val.json", "categories")
    images = _entries(folder / f"{name}_test_stripped.json", "images")
    return Annotations(
        {str(image["file_name"]).removeprefix(_DATA): int(image["id"]) for image in images},
        tuple(int(category["id"]) for category in categories),
    )


def _entries(file: Path, key: str) -> list[dict[str, Any]]:
    try:
        return json.loads(file.read_bytes())[key]
    except OSError as error:
        raise UserError(
            f"--annotations: {file} cannot be read ({error.strerror}); give the folder decathlon-1.0/annotations "
            "of the challenge's devkit"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--annotations: {file} is no annotation file with {key}; unpack it again") from error
