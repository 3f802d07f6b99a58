r"""Learn to tell handwritten digits from 323 labelled ones, in about a minute.

    finetune-jax demo

The bundled network, pretrained on photographs of ten other things (CIFAR-10), learns the ten digits three times: its
head alone, all of it at one learning rate, and all of it with AutoLR, which gives every block a rate of its own. Same
images, epochs and starting rate for all; ends with a table, the pages to look at, and the command for own photos.
"""

import dataclasses
import os
import sys
import time
from typing import Any

from finetune_jax.commands import command_line
from finetune_jax.config.invocation import as_started
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(
    FinetuneConfig,
    test_fraction=0.8,
    select_on="last",
    learning_rate=1e-2,
    head_learning_rate=1e-2,
    batch_size=40,
    epochs=5,
    schedule="step",
    drop_factor=0.2,
)
_RUNS: dict[str, dict[str, Any]] = {
    "head alone": {"method": "feature_extractor"},
    "one rate": {},
    "AutoLR": {"method": "autolr"},
}


def main() -> int:
    """Run the three, print the table."""
    base = command_line.read_flags(FinetuneConfig)
    command_line.refuse(("method",), "has no meaning here: the demo sets it for each of its runs")
    workdir = base.workdir or os.path.join("runs", time.strftime("demo-%Y%m%d-%H%M%S"))
    replicas = command_line.start_jax()
    from finetune_jax.reports import tables
    from finetune_jax.runs import finetune

    what = "handwritten digits" if base.dataset == "digits" else base.dataset
    print(
        f"A small network that knows ten kinds of photographs (CIFAR-10) learns to tell {what}\n"
        "from a few hundred labelled images, and is tested on others. Its three runs take about a minute\n"
        "on two cores, and two the first time, when programs are compiled.",
        file=sys.stderr,
    )
    summaries: dict[str, dict[str, Any]] = {}
    for name, settings in _RUNS.items():
        print(f"\nrun {len(summaries) + 1} of {len(_RUNS)} · {name}", file=sys.stderr)
        run_directory = os.path.join(workdir, name.replace(" ", "_").lower())
        summaries[name] = finetune.run(dataclasses.replace(base, workdir=run_directory, **settings), replicas)
    first = next(iter(summaries.values()))
    counts = ", ".join(f"{count:,} {split}" for split, count in first["images"].items() if count)
    score = first["score"]
    rows = []
    for name, summary in summaries.items():
        ends = tables.interval_of(score, summary[score], summary["images"]["test"])
        rows.append(
            [
                name,
                f"{100 * summary[score]:.2f}",
                "" if ends is None else tables.between(ends),
                f"{summary['epochs_trained']} ({summary['passes']})",
                f"{summary['parameters_trained'] / 1e3:,.0f} k",
                f"{summary['seconds']:.0f}",
            ]
        )
    columns = [
        "trained",
        f"{tables.spoken(score)}, %",
        "95 % interval",
        "epochs (tried)",
        "weights",
        "seconds",
    ]
    print(f"\n{base.dataset}: {counts} images\n")
    print(tables.table(columns, rows))
    print(f"\npages: {workdir}/*/report.html")
    print(as_started(f"all of them, and a place to try images: finetune-jax app --runs={workdir}"))
    print(as_started("your own photos, one folder per class: finetune-jax finetune --dataset=folder:PHOTOS"))
    return 0
