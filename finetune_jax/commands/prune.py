r"""Find how many of the top blocks a new task can do without (Algorithm 1 of AutoLR).

    finetune-jax prune --dataset=folder:photos --workdir=runs/prune

Fine-tunes the pretrained network with 0, 1, 2 … of its top blocks left out, as long as the validation score does
not fall, and shows what each depth saves. Each depth is an ordinary run directory below --workdir; started again,
none is trained twice. Train the result with ``finetune-jax finetune --prune_depth=N``.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(FinetuneConfig, epochs=10)
flags.DEFINE_list("seeds", ["0"], "Seeds with which every depth is trained; its score is their mean.")
flags.DEFINE_integer(
    "max_depth",
    -1,
    "At most this many of the top blocks are left out; -1 goes on until one block is left.",
    lower_bound=-1,
)
study_output.define_flags()


def main() -> int:
    """Search, print and write the table."""
    values = flags.FLAGS
    command_line.refuse(("prune_depth", "seed"), "is not for this search, which sets it for every run itself")
    config = command_line.read_flags(FinetuneConfig)
    seeds = command_line.numbers("seeds", int)
    runs = command_line.start_study(config.workdir, "prune")
    from finetune_jax.reports import pruning as pruning_report
    from finetune_jax.studies import prune

    result = prune.search(
        dataclasses.replace(config, workdir=""),
        runs,
        seeds=seeds,
        max_depth=None if values.max_depth < 0 else values.max_depth,
        progress=runs.progress,
    )
    study_output.finish(pruning_report.report(result), runs, "prune")
    return 0
