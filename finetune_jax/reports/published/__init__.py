"""The tables of the papers as data: what each row does, and the numbers printed for it.

Numbers are as printed, in per cent where the papers give per cent. ``studies.reproduce`` runs the rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_jax.algorithms import decathlon


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as printed.
        settings: fields of the config that make the row; None where it cannot be run: another paper's method,
            or settings that the paper does not give.
        numbers: ``{data set: numbers under the table's metrics}``, None where none is printed.
        source: what its weights were trained on, where that is not ImageNet.
        grid: ``{field of the config: values}``; the row is the best of all combinations.
    """

    name: str
    settings: Mapping[str, Any] | None
    numbers: Mapping[str, tuple[float | None, ...]]
    source: str = ""
    grid: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        title: what it shows.
        network: of the paper, a name of ``models.names()``.
        settings: fields of the config that all rows share.
        metrics: ``{data set: names of our summary}``, one per number of a row.
        rows: in the printed order.
        note: what the reader must know, empty where there is nothing.
        of_data: ``{data set: fields of the config that all rows share on it}``, where they differ.
    """

    title: str
    network: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    note: str = ""
    of_data: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def data_of(self, dataset: str) -> str:
        """The data set of the table that ``--dataset`` is by its name; empty where that does not tell."""
        return next((data for data in self.metrics if DATASETS[data] == dataset), "")


DATASETS: Mapping[str, str] = {
    "CUB-200": "tfds:caltech_birds2011",
    "Cars-196": "tfds:cars196",
    "SOP": "tfds:stanford_online_products",
    "Inshop": "folder:PATH with train/, query/ and gallery/, one folder per item in each",
    "FGVC-CUB": "tfds:caltech_birds2011",
    "FGVC-Cars": "tfds:cars196",
    "FGVC-Aircraft": "folder:PATH with train/ and test/, one folder per variant in each",
    "CUBS": "tfds:caltech_birds2011",
    "Stanford Cars": "tfds:cars196",
    "WikiArt": "folder:PATH with train/ and test/, one folder per artist in each",
    "Sketches": "folder:PATH with train/ and test/, one folder per class in each",
    **{name: decathlon.settings(name)["dataset"] for name in decathlon.DATASETS},
    "Dogs": "tfds:stanford_dogs",
    "Caltech": "folder:PATH of Caltech-256 with train/ (60 images of each class) and test/ (the others)",
    "Indoor": "folder:PATH of MIT Indoor-67 with train/ and test/, one folder per scene in each",
    "Birds": "tfds:caltech_birds2011",
    "Cars": "tfds:cars196",
    "Aircrafts": "folder:PATH of FGVC-Aircraft with train/ (training and validation images) and test/, one folder "
    "per variant in each",
    "Flowers": "tfds:oxford_flowers102",
}
"""Where the data sets of the tables come from: values of ``--dataset``."""
