r"""Look for what is wrong with a data set before training on it.

    finetune-jax check_data --dataset=folder:photos
    finetune-jax check_data --cache

Prints unreadable files, duplicates across splits, classes with too few images, sizes and class balance; with --cache
it reads all decoded images that are kept instead. The exit status is 1 where training would fail or its scores could
not be trusted.
"""

import os

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.settings import DataConfig

command_line.define_flags(DataConfig)
flags.DEFINE_integer("min_images", 5, "Training images a class should have at least.", lower_bound=1)
flags.DEFINE_bool(
    "cache", False, "Check every decoded image below --cache_dir against its digest instead of the data."
)


def main() -> int:
    """Check and print."""
    config = command_line.read_flags(DataConfig)
    if flags.FLAGS.cache:
        return _check_cache(config)
    from finetune_jax.data import check, load_source

    report = check.check(
        load_source(config, list_findings=True),
        min_images=flags.FLAGS.min_images,
        bits=config.bits,
        workers=config.decode_workers or None,
        progress=True,
    )
    print(check.format_report(report))
    return 0 if report.ok else 1


def _check_cache(config: DataConfig) -> int:
    from finetune_jax.data import cache, cache_folder

    folder = cache_folder(config)
    count, damaged = cache.check_all(folder, progress=True)
    for path in damaged:
        print(f"{path}: not what was written; it is made again when it is needed, and can be deleted")
    print(
        f"{os.fspath(folder)}: {count} caches of decoded images, {len(damaged)} of them damaged or of an older format"
    )
    return 1 if damaged else 0
