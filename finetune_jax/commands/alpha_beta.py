r"""Map AutoLR's score over its settings α and β (Figure 3 of the paper).

    finetune-jax alpha_beta --dataset=folder:photos --alphas=1,2,3 --betas=0.2,0.4,0.6 --workdir=runs/map

Pairs whose targets would descend are hatched in the figure and not trained. Each pair is an ordinary run
directory below --workdir; started again, none is trained twice.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

command_line.define_flags(FinetuneConfig, method="autolr")
flags.DEFINE_list("alphas", ["1", "2", "3", "4"], "Values of AutoLR's α, one row of the map each.")
flags.DEFINE_list("betas", ["0.2", "0.4", "0.6", "0.8"], "Values of AutoLR's β, one column of the map each.")
study_output.define_flags()


def main() -> int:
    """Train the grid, write the map, print it."""
    values = flags.FLAGS
    for name in ("alpha", "beta"):
        if values[name].present:
            raise UserError(
                f"--{name} is not for this map, which sets it for every run itself; give --{name}s"
            )
    if values.method != "autolr":
        raise UserError(f"--method={values.method} has neither α nor β; leave --method out")
    config = command_line.read_flags(FinetuneConfig, base=recipe("autolr"))
    alphas, betas = command_line.numbers("alphas", float), command_line.numbers("betas", float)
    if not min(*alphas, *betas) > 0:
        raise UserError("--alphas and --betas must be above 0")
    runs = command_line.start_study(config.workdir, "alpha-beta")
    from finetune_jax.reports import alpha_beta as alpha_beta_report
    from finetune_jax.studies import alpha_beta

    result = alpha_beta.grid(
        dataclasses.replace(config, workdir=""),
        runs,
        alphas=alphas,
        betas=betas,
        passes_of=runs.passes,
        progress=runs.progress,
    )
    study_output.finish(alpha_beta_report.report(result), runs, "alpha_beta")
    return 0
