r"""Compare AutoLR with a single rate, pruning and geometric rates, from the same starts.

    finetune-jax autolr                                             # digits: train on five, retrieve five
    finetune-jax autolr --compare --rates=0.001,0.003,0.01,0.03 --seeds=0,1,2 --dataset=folder:photos

The comparison of Tables 2 and 5 of the paper. Without --compare: a single rate, pruning, pruning with AutoLR; with
it also geometric rates and schedules. With several --rates each method gets the best of them on validation, and the
grid is widened where a best rate lies at its edge. Runs are ordinary run directories below --workdir; started again,
none is trained twice.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(
    FinetuneConfig,
    protocol="retrieval",
    head_learning_rate=1e-2,
    batch_size=40,
    epochs=5,
    schedule="step",
    drop_factor=0.2,
)
flags.DEFINE_bool("compare", False, "Compare geometric rates too, and every method with and without pruning.")
flags.DEFINE_bool(
    "schedules",
    None,
    "Compare the schedules of the paper's Table 5 too, on the pruned network; by default with --compare.",
)
flags.DEFINE_list("rates", ["0.01"], "Learning rates from which every method is tried.")
flags.DEFINE_list("seeds", ["0"], "Seeds of the runs whose test scores are reported.")
flags.DEFINE_list(
    "selection_seeds",
    ["0"],
    "Seeds of the runs that choose the pruning depth and the rates on validation images.",
)
flags.DEFINE_bool(
    "widen", True, "Try rates beyond --rates where the best rate of a method lies at their edge."
)
flags.DEFINE_integer("max_depth", 3, "At most this many of the top blocks are left out.", lower_bound=0)
study_output.define_flags()


def main() -> int:
    """Run the study, print and write its table."""
    values = flags.FLAGS
    set_by_the_study = (
        "method",
        "learning_rate",
        "effective_learning_rate",
        "prune_depth",
        "seed",
        "select_on",
    )
    command_line.refuse(set_by_the_study, "is not for this study, which sets it for every run itself")
    config = command_line.read_flags(FinetuneConfig)
    from finetune_jax.studies.comparison import Protocol

    protocol = Protocol(
        command_line.numbers("rates", float),
        command_line.numbers("selection_seeds", int),
        command_line.numbers("seeds", int),
        values.widen,
    )
    runs = command_line.start_study(config.workdir, "autolr")
    from finetune_jax.reports import autolr as autolr_report
    from finetune_jax.studies import autolr

    result = autolr.run(
        dataclasses.replace(config, workdir=""),
        runs,
        protocol,
        compare=values.compare,
        schedules=values.compare if values.schedules is None else values.schedules,
        max_depth=values.max_depth,
        progress=runs.progress,
    )
    study_output.finish(autolr_report.report(result), runs, "autolr")
    return 0
