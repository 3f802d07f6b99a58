r"""Compare SpotTune with the methods of its paper's Table 2, from the same starts.

    finetune-jax spottune                                            # digits: five telling methods
    finetune-jax spottune --compare --rates=0.003,0.01,0.03 --seeds=0,1,2 --dataset=folder:photos

With several --rates each method gets the best of them on validation, and the grid is widened where a best rate
lies at its edge. A setting of the policy counts for the methods that have one, --k for the global policy. Runs are
ordinary run directories below --workdir; started again, none is trained twice.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

command_line.define_flags(FinetuneConfig, method="spottune_global", k=3, epochs=5)
flags.DEFINE_bool(
    "compare", False, "Compare all methods of the paper's Table 2 instead of the five most telling ones."
)
flags.DEFINE_list("rates", ["0.01"], "Learning rates at which every method is tried.")
flags.DEFINE_list("seeds", ["0"], "Seeds of the runs whose test scores are reported.")
flags.DEFINE_list("selection_seeds", ["0"], "Seeds of the runs that choose the rates on validation images.")
flags.DEFINE_bool(
    "widen", True, "Try rates beyond --rates where the best rate of a method lies at their edge."
)
flags.DEFINE_string("resnet101", "", "File of ResNet-101 weights, for the row of --compare that needs them.")
study_output.define_flags()


def main() -> int:
    """Run the study, print and write its table."""
    values = flags.FLAGS
    set_by_the_study = ("method", "learning_rate", "effective_learning_rate", "seed")
    command_line.refuse(set_by_the_study, "is not for this study, which sets it for every run itself")
    if values.resnet101 and not values.compare:
        raise UserError("--resnet101 is for --compare, which has a row for it")
    config = command_line.read_flags(FinetuneConfig)
    from finetune_jax.studies.comparison import Protocol

    protocol = Protocol(
        command_line.numbers("rates", float),
        command_line.numbers("selection_seeds", int),
        command_line.numbers("seeds", int),
        values.widen,
    )
    runs = command_line.start_study(config.workdir, "spottune")
    from finetune_jax.reports import spottune as spottune_report
    from finetune_jax.studies import spottune

    base = dataclasses.replace(config, workdir="")
    result = spottune.run(
        base, runs, protocol, compare=values.compare, resnet101=values.resnet101, progress=runs.progress
    )
    study_output.finish(spottune_report.report(result), runs, "spottune")
    return 0
