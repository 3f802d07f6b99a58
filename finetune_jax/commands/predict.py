r"""Label images with a run, from nothing but its directory.

    finetune-jax predict --run=runs/photos holiday.jpg more/photos
    finetune-jax predict --run=runs/photos --format=csv --output=labels.csv photos
    finetune-jax predict --run=runs/photos --embeddings=features.npz photos

Prints the most probable labels of each image, or writes the embeddings of all to a file. A file that cannot be read
stops nothing; it is named at the end, and the status is 1.
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

_CHUNK = 256

flags.DEFINE_string("run", None, "Run directory whose best checkpoint predicts.", required=True)
flags.DEFINE_integer(
    "top", 0, "Number of labels per image; 0 is 3 in a table and 1 in CSV and JSON.", lower_bound=0
)
flags.DEFINE_enum(
    "format",
    "table",
    ["table", "csv", "json"],
    "Format of the labels: a table to read, CSV with the columns image, label and probability, or JSON lines.",
)
flags.DEFINE_string("output", "", "File to write the labels to; empty prints them.")
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
    from finetune_jax.files.whole_file import write_whole
    from finetune_jax.reports import predictions

    values = flags.FLAGS
    top = values.top or (3 if values.format == "table" else 1)
    lines: list[str] = []
    predictor = finetune_jax.load(Path(values.run).expanduser(), views=values.views)
    unreadable: list[UnreadableImage] = []
    embeddings, embedded = [], []
    paths = folder.listed_images([Path(argument) for argument in arguments])
    decoding = dataclasses.replace(predictor.decoding, max_pixels=values.max_pixels)
    top = min(top, len(predictor.class_names))

    def give(text: str) -> None:
        if values.output:
            lines.append(text)
        else:
            print(text, end="")

    if not values.embeddings:
        give(predictions.header(values.format, top))
    for names, images in _readable_chunks(paths, decoding, unreadable):
        if values.embeddings:
            embeddings.append(predictor.embed(images))
            embedded += names
        else:
            for name, probabilities in zip(names, predictor(images), strict=True):
                best = np.argsort(-probabilities, kind="stable")[:top]
                labels = [predictor.class_names[i] for i in best]
                give(
                    predictions.line(predictions.Prediction(name, labels, probabilities[best]), values.format)
                )
    if values.output:
        write_whole(Path(values.output).expanduser(), "".join(lines).encode("utf-8", "surrogateescape"))
        print(f"labels written to {values.output}", file=sys.stderr)
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
