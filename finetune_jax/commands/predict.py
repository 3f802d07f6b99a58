r"""Label images with a run, from nothing but its directory.

    finetune-jax predict --run=runs/photos holiday.jpg more/photos
    finetune-jax predict --run=runs/photos --format=csv --output=labels.csv photos
    finetune-jax predict --run=runs/photos --embeddings=features.npz photos
    finetune-jax predict --add_adapter=runs/photos/adapter --pretrained=dinov2_small_focus photos
    finetune-jax predict --run=runs/photos --threshold=0.6 --uncertainty 'photos/**/*.jpg' list.txt table.csv

Prints the most probable labels of each image, all labels of a multilabel run, the numbers of a regression, or writes
embeddings to a file. Takes files, folders, patterns, text files with a path per line, and tables with a column of
images. A file that cannot be read stops nothing; it is named at the end, and the status is 1.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from finetune_jax.commands import command_line, trained
from finetune_jax.config.choices import VIEWS
from finetune_jax.config.settings import DataConfig

_CHUNK = 32
_EXAMPLE = "finetune-jax predict --run=runs/photos photo.jpg"
_NAMED = 100
"""Unreadable images that are named."""

trained.define_flags("predicts")
flags.DEFINE_integer(
    "top",
    0,
    "Number of labels per image; 0 is 3 in a table, 1 in CSV and JSON, and all that an image has of a multilabel run.",
    lower_bound=0,
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


flags.DEFINE_float(
    "threshold",
    None,
    "Images whose most probable class is below this are none of these; with several labels per image the threshold of "
    "all classes, in place of those that were chosen on validation.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_bool(
    "uncertainty", False, "Also give how undecided the probabilities are, from 0 (certain) to 1 (all alike)."
)
flags.DEFINE_bool(
    "calibrated", True, "Divide logits by the temperature that the run fitted to its validation images."
)
flags.DEFINE_list(
    "columns", [], "Column of images of a table, image=COLUMN, where it is not known by its name."
)
flags.DEFINE_string(
    "image_root", "", "Folder that paths in lists and tables count from; empty is that of the list."
)


def main(arguments: list[str]) -> int:
    """Print one line per image, or write embeddings."""
    from finetune_jax.errors import UserError

    if not arguments:
        raise UserError(f"name images or folders, e.g. {_EXAMPLE}")
    command_line.start_jax()
    import numpy as np

    from finetune_jax.data import image_lists
    from finetune_jax.data.decode import UnreadableImage
    from finetune_jax.files.whole_file import write_whole
    from finetune_jax.runs.predict import Predictor

    values = flags.FLAGS
    lines: list[str] = []
    predictor = Predictor(*trained.read(_EXAMPLE), views=values.views, calibrated=values.calibrated)
    unreadable: list[UnreadableImage] = []
    embeddings, embedded = [], []
    paths = image_lists.named(arguments, columns=values.columns, image_root=values.image_root)
    decoding = dataclasses.replace(predictor.decoding, max_pixels=values.max_pixels)
    from finetune_jax.runs.labelling import Labelling

    labelling = Labelling(
        predictor,
        format=values.format,
        top=values.top,
        threshold=values.threshold,
        uncertainty=values.uncertainty,
    )

    def give(text: str) -> None:
        if values.output:
            lines.append(text)
        else:
            print(text, end="", flush=True)

    if not values.embeddings:
        give(labelling.header)
    for names, images in _readable_chunks(paths, decoding, unreadable):
        if values.embeddings:
            embeddings.append(predictor.embed(images))
            embedded += names
        else:
            give("".join(labelling.lines(names, images)))
    if values.output:
        write_whole(Path(values.output).expanduser(), "".join(lines).encode("utf-8", "surrogateescape"))
        print(f"labels written to {values.output}", file=sys.stderr)
    if embeddings:
        np.savez(values.embeddings, embeddings=np.concatenate(embeddings), paths=np.array(embedded))
        print(f"{len(embedded)} embeddings written to {values.embeddings}", file=sys.stderr)
    for error in unreadable[:_NAMED]:
        print(f"error: {error}", file=sys.stderr)
    if len(unreadable) > _NAMED:
        print(f"error: {len(unreadable)} of {len(paths)} images cannot be read", file=sys.stderr)
    return 1 if unreadable else 0


def _readable_chunks(
    paths: list[Path], decoding: Any, unreadable: list[Any]
) -> Iterator[tuple[list[str], list[Any]]]:
    """Names and pixels of up to 32 images at a time; errors are collected in ``unreadable``."""
    from finetune_jax.data.decode import UnreadableImage, read_image
    from finetune_jax.data.parallel import ordered_map

    def read(place: int) -> Any:
        try:
            return read_image(paths[place], decoding=decoding)
        except UnreadableImage as error:
            return error

    names: list[str] = []
    images: list[Any] = []
    # The bar shows on a terminal; labels that go there too are progress enough.
    bar = bool(flags.FLAGS.output or flags.FLAGS.embeddings or not sys.stdout.isatty())
    results = ordered_map(read, len(paths), progress=bar, title="images")
    with contextlib.closing(results):
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, UnreadableImage):
                unreadable.append(result)
            else:
                names.append(str(path))
                images.append(result)
            if len(images) == _CHUNK:
                yield names, images
                names, images = [], []
    if images:
        yield names, images
