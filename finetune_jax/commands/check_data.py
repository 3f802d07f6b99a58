r"""Look for what is wrong with a data set before training on it.

    finetune-jax check_data --dataset=folder:photos

Prints unreadable files, duplicates across splits, classes with too few images, sizes and class balance; the
exit status is 1 where training would fail or its scores could not be trusted.
"""

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.settings import DataConfig

command_line.define_flags(DataConfig)
flags.DEFINE_integer("min_images", 5, "Training images a class should have at least.", lower_bound=1)


def main() -> int:
    """Check and print."""
    config = command_line.read_flags(DataConfig)
    from finetune_jax.data import check, load_source

    report = check.check(
        load_source(config),
        min_images=flags.FLAGS.min_images,
        workers=config.decode_workers or None,
        progress=True,
    )
    print(check.format_report(report))
    return 0 if report.ok else 1
