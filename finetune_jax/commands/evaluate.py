r"""Measure a run on a split of its data set or of another one.

    finetune-jax evaluate --run=runs/photos
    finetune-jax evaluate --run=runs/photos --dataset=folder:other --protocol=retrieval

A split is the run's own, whatever has come to the folder since; --current_folder measures on the folder as it is now.
Classification prints accuracy, balanced accuracy, recall per class and the confusion matrix; retrieval
prints Recall@K and MAP@R of the embeddings. Everything goes to EVALUATION.json in the run directory too.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.choices import VIEWS
from finetune_jax.config.settings import DataConfig
from finetune_jax.files.run_directory import data_config_of

command_line.define_flags(DataConfig)
flags.DEFINE_string("run", None, "Run directory whose best checkpoint is measured.", required=True)
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
    run = Path(values.run).expanduser()
    # The data of the run itself, unless flags say otherwise.
    of_run = data_config_of(run)
    config = command_line.read_flags(DataConfig, base=of_run)
    protocol = config.protocol
    if not values["dataset"].present:
        config = dataclasses.replace(config, protocol=of_run.protocol)  # split as the run had it split
    replicas = command_line.start_jax()
    from finetune_jax.reports import tables
    from finetune_jax.runs import evaluate

    result = evaluate.measure(
        run,
        config,
        replicas,
        split=values.split,
        protocol=protocol,
        current_folder=values.current_folder,
        include_trained=values.include_trained,
        views=values.views,
    )
    print(tables.measurement_table(result))
    views = "" if values.views == "one" else f"-{values.views}"
    file = run / f"evaluation-{protocol}-{values.split}{views}.json"
    try:
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {file}", file=sys.stderr)
    except OSError as error:
        print(f"not written to {file}: {error.strerror}", file=sys.stderr)
    return 0
