r"""Fine-tune a pretrained network.

    finetune-jax finetune --dataset=folder:photos --workdir=runs/photos

Started again with the same flags it goes on where it stopped. Flags that are not given have the values of the
method's paper: ``--method=autolr`` starts its blocks at 1e-3 and trains 50 epochs with batches of 40.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(FinetuneConfig)


def main() -> int:
    """Run, print the result, return the exit status."""
    config = command_line.read_flags(FinetuneConfig, base=recipe(flags.FLAGS.method))
    if not config.workdir:
        workdir = command_line.new_workdir(config.dataset, config.method)
        config = dataclasses.replace(config, workdir=workdir)
    replicas = command_line.start_jax()
    command_line.show_devices(replicas)
    from finetune_jax.reports import tables
    from finetune_jax.runs import finetune

    summary = finetune.run(config, replicas)
    if replicas.is_primary:
        print(f"{tables.result_line(summary)}\nrun directory: {config.workdir}")
    return 0
