r"""Label images with a run, from nothing but its directory.

    finetune-jax predict --run=runs/photos holiday.jpg more/photos
    finetune-jax predict --run=runs/photos --embeddings=features.npz photos

Prints the most probable labels of each image, or writes the embeddings of all to a file.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.choices import VIEWS
from finetune_jax.config.settings import DataConfig
from finetune_jax.errors import readable

_CHUNK = 256
_NAME_LENGTH = 1000  # characters of a path

flags.DEFINE_string("run", None, "Run directory whose best checkpoint predicts.", required=True)
flags.DEFINE_integer("top", 3, "Number of labels that are printed per image.", lower_bound=1)
flags.DEFINE_integer(
    "max_pixels",
    DataConfig.max_pixels,
    "Width times height up to which an image is read; larger JPEGs are read at a reduced scale.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "views",
    "one",
    VIEWS,
    "Views of every image whose outputs are averaged: one, mirror for the mirror image too, five_crops for corners and "
    "centre, ten_crops for both.",
)
flags.DEFINE_string("embeddings", "", "Write embeddings and paths to this .npz file instead of labels.")


def main(arguments: list[str]) -> int:
    """Print one line per image, or write embeddings."""
    from finetune_jax.errors import UserError

    if not arguments:
        raise UserError("name images or folders, e.g. finetune-jax predict --run=runs/photos photo.jpg")
    command_line.start_jax()
    import numpy as np

    import finetune_jax
    from finetune_jax.data import folder
    from finetune_jax.data.decode import UnreadableImage

    values = flags.FLAGS
    predictor = finetune_jax.load(Path(values.run).expanduser(), views=values.views)
    unreadable: list[UnreadableImage] = []
    embeddings, embedded = [], []
    paths = folder.listed_images([Path(argument) for argument in arguments])
    decoding = dataclasses.replace(predictor.decoding, max_pixels=values.max_pixels)
    for names, images in _readable_chunks(paths, decoding, unreadable):
        if values.embeddings:
            embeddings.append(predictor.embed(images))
            embedded += names
        else:
            for name, probabilities in zip(names, predictor(images), strict=True):
                best = np.argsort(-probabilities)[: values.top]
                shown = "  ".join(f"{predictor.class_names[i]} {probabilities[i]:.4f}" for i in best)
                print(f"{readable(name, _NAME_LENGTH)}\t{shown}")
    if embeddings:
        np.savez(values.embeddings, embeddings=np.concatenate(embeddings), paths=np.array(embedded))
        print(f"{len(embedded)} embeddings written to {values.embeddings}", file=sys.stderr)
    for error in unreadable:
        print(f"error: {error}", file=sys.stderr)
    return 1 if unreadable else 0


def _readable_chunks(
    paths: list[Path], decoding: Any, unreadable: list[Any]
) -> Iterator[tuple[list[str], list[Any]]]:
    """Names and pixels of up to 256 images at a time; errors are collected in ``unreadable``."""
    from finetune_jax.data.decode import UnreadableImage, read_image

    for start in range(0, len(paths), _CHUNK):
        names, images = [], []
        for path in paths[start : start + _CHUNK]:
            try:
                images.append(read_image(path, decoding=decoding))
                names.append(str(path))
            except UnreadableImage as error:
                unreadable.append(error)
        if images:
            yield names, images
