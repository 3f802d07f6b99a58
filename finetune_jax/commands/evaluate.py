r"""Measure a run on a split of its data set or of another one.

    finetune-jax evaluate --run=runs/photos
    finetune-jax evaluate --run=runs/photos --dataset=folder:other --protocol=retrieval
    finetune-jax evaluate --add_adapter=runs/photos/adapter --pretrained=dinov2_small_focus --dataset=folder:photos

Several data sets, --dataset=A,B,C, give one table, also as Markdown and CSV. A split is the run's own, whatever has
come to the folder since; --current_folder measures on the folder as it is now.
Scores go with the task of the run: accuracy, F1, AUROC, kappa, calibration and recall per class of a classifier, mAP
and F1 of several labels, errors and R² of numbers, all with 95 % intervals; --protocol=retrieval prints Recall@K and
MAP@R of the embeddings. Everything goes to EVALUATION.json in the run directory too.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line, trained
from finetune_jax.config.choices import VIEWS
from finetune_jax.config.settings import DataConfig
from finetune_jax.config.spelling import data_set
from finetune_jax.errors import UserError
from finetune_jax.files import working_copies
from finetune_jax.files.run_directory import data_config_of

_EXAMPLE = "finetune-jax evaluate --run=runs/photos"

command_line.define_flags(DataConfig)
flags.DEFINE_bool(
    "calibrated", True, "Divide logits by the temperature that the run fitted to its validation images."
)
trained.define_flags("is measured")
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Split to measure on.")
flags.DEFINE_bool(
    "current_folder",
    False,
    "Measure on the data set as it is now, divided anew, instead of on the images that the run had.",
)
flags.DEFINE_bool(
    "include_trained", False, "With --current_folder, measure on images that the run was trained on too."
)
flags.DEFINE_enum(
    "views",
    "one",
    VIEWS,
    "Views of every image whose outputs are averaged: one, mirror for the mirror image too, five_crops for corners and "
    "centre, ten_crops for both.",
)


def main() -> int:
    """Measure, print, save."""
    values = flags.FLAGS
    run, is_adapter = trained.folder(_EXAMPLE)
    if is_adapter and not values["dataset"].present:
        raise UserError("--add_adapter needs --dataset, the images to measure it on")
    # The data of the run itself, unless flags say otherwise.
    of_run = DataConfig() if is_adapter else data_config_of(run)
    config = command_line.read_flags(DataConfig, base=of_run)
    protocol = config.protocol
    if not values["dataset"].present:
        config = dataclasses.replace(config, protocol=of_run.protocol)  # split as the run had it split
    replicas = command_line.start_jax()
    from finetune_jax.reports import tables
    from finetune_jax.runs import evaluate

    settings = {
        "split": values.split,
        "protocol": protocol,
        "current_folder": values.current_folder,
        "include_trained": values.include_trained,
        "views": values.views,
        "calibrated": values.calibrated,
        "network": trained.read(_EXAMPLE) if is_adapter else None,
    }
    views = "" if values.views == "one" else f"-{values.views}"
    name = f"evaluation-{protocol}-{values.split}{views}"
    names = _data_sets(config.dataset)
    if len(names) > 1:
        configs = {name: evaluate.of_data_set(config, name) for name in names}
        results = evaluate.measure_all(run, configs, replicas, **settings)
        table = tables.measurements_table(results)
        # A line for each score: that many columns are wider than a terminal.
        print(tables.as_text(tables.turned(table)))
        _write(run / f"{name}-sets.json", tables.json_text(results))
        _write(run / f"{name}-sets.md", tables.as_markdown(table) + "\n")
        _write(run / f"{name}-sets.csv", tables.csv_text([table.columns, *table.rows]))
        return 0
    result = evaluate.measure(run, config, replicas, **settings)
    print(tables.measurement_table(result))
    _write(run / f"{name}.json", json.dumps(result, indent=2) + "\n")
    return 0


def _data_sets(text: str) -> list[str]:
    """The data sets of ``--dataset=A,B``; a path that has a comma is one."""
    words = [word.strip() for word in text.split(",")]
    path = text.partition(":")[2] or text
    if len(words) < 2 or Path(path).expanduser().exists():
        return [text]
    return [data_set(word) for word in words if word]


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
        print(working_copies.named(f"written to {file}"), file=sys.stderr)
    except OSError as error:
        print(f"not written to {file}: {error.strerror}", file=sys.stderr)
