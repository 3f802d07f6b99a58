r"""Compare AutoLR with a single learning rate on handwritten digits, in about a minute.

    finetune-jax demo

The bundled network (pretrained on CIFAR-10) learns the digits 0 to 4 and is then asked to find, for every image of a
5 to 9, others of the same digit: with one learning rate, without its top two blocks, and with AutoLR on top. Same
data, epochs and starting rate for all; ends with a table and the run directories.
"""

import dataclasses
import os
import sys
import time
from typing import Any

from finetune_jax.commands import command_line
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(
    FinetuneConfig,
    protocol="retrieval",
    validation_fraction=0.0,
    select_on="last",
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    batch_size=40,
    epochs=5,
    schedule="step",
    drop_factor=0.2,
)
_RUNS: dict[str, dict[str, Any]] = {
    "single rate": {},
    "two blocks pruned": {"prune_depth": 2},
    "two blocks pruned, AutoLR": {"prune_depth": 2, "method": "autolr"},
}


def main() -> int:
    """Run the three, print the table."""
    base = command_line.read_flags(FinetuneConfig)
    command_line.refuse(
        ("method", "prune_depth"), "has no meaning here: the demo sets it for each of its runs"
    )
    workdir = base.workdir or os.path.join("runs", time.strftime("demo-%Y%m%d-%H%M%S"))
    replicas = command_line.start_jax()
    from finetune_jax.reports import tables
    from finetune_jax.runs import finetune

    print(
        f"The bundled network, pretrained on CIFAR-10, learns half of the classes of {base.dataset} and then finds\n"
        "images of the other half among each other. Three runs, about two minutes on two cores.",
        file=sys.stderr,
    )
    summaries: dict[str, dict[str, Any]] = {}
    for name, settings in _RUNS.items():
        print(f"run {len(summaries) + 1} of {len(_RUNS)} · {name}", file=sys.stderr)
        run_directory = os.path.join(workdir, name.replace(", ", "-").replace(" ", "_"))
        summaries[name] = finetune.run(dataclasses.replace(base, workdir=run_directory, **settings), replicas)
    counts = ", ".join(
        f"{count} {split}" for split, count in summaries["single rate"]["images"].items() if count
    )
    print(f"\n{base.dataset}: {counts} images\n")
    print(tables.comparison_table(summaries))
    print(f"\nrun directories: {workdir}/*  (open report.html in each)")
    print("your own photos, in one folder per class: finetune-jax finetune --dataset=folder:PHOTOS")
    return 0
