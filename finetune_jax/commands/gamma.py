r"""Check on a run of AutoLR whether the accumulated gradient depends on the rate.

    finetune-jax gamma --run=runs/autolr --epoch=1

AutoLR takes the variation of a block for proportional to its learning rate (Eq. 16). The first and the last trial of
an epoch start from the same weights at different rates; γ, the ratio of what remains without the rates, is 1 where
that holds (Table 1 of the supplement: 0.69 to 0.95).
"""

from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line

flags.DEFINE_string("run", None, "Directory of a finished run of --method=autolr.", required=True)
flags.DEFINE_integer(
    "epoch", 1, "Epoch whose first and last trial are compared; it has at least two.", lower_bound=1
)


def main() -> int:
    """Print the table."""
    values = flags.FLAGS
    command_line.start_jax()
    from finetune_jax.reports import gamma as gamma_report
    from finetune_jax.studies import gamma

    print(gamma_report.text(gamma.of_epoch(Path(values.run).expanduser(), values.epoch)))
    return 0
