r"""Cross-validate: train on all folds of the images but one, test on that one, in turn.

    finetune-jax folds --dataset=folder:photos --folds=5 --workdir=runs/folds
    finetune-jax folds --dataset=csv:labels.csv --group_by=patient

Prints mean and spread, and writes out_of_fold.csv, every image as labelled by the run that had not seen it. Groups and
near-duplicates never lie in two folds. Each fold is an ordinary run directory below --workdir; started again, none is
trained twice.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.named_recipes import DEFAULT, NAMED_RECIPES, starting_config
from finetune_jax.config.settings import FinetuneConfig

_FOLDS = 5

command_line.define_flags(FinetuneConfig, folds=_FOLDS)
flags.DEFINE_enum(
    "recipe",
    DEFAULT,
    list(NAMED_RECIPES),
    "Set of settings for all flags that are not given, as of finetune.",
)
study_output.define_flags()


def main() -> int:
    """Train, print and write the table."""
    values = flags.FLAGS
    command_line.refuse(("fold",), "is not for this study, which trains on every fold")
    typed = command_line.typed_settings()
    start = starting_config(
        recipe=values.recipe,
        method=typed.get("method"),
        optimizer=typed.get("optimizer"),
        typed=typed,
        version=study_output.starting_version(values.workdir),
    )
    base = dataclasses.replace(start, folds=_FOLDS)
    config = command_line.read_flags(FinetuneConfig, base=base)
    runs = command_line.start_study(config.workdir, "folds")
    from finetune_jax.reports import cross_validation as report
    from finetune_jax.studies import cross_validation as study

    def predictions(name: str) -> Sequence[Mapping[str, str]]:
        content = runs.read(name, study.PREDICTIONS)
        return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"))))

    result = study.run(dataclasses.replace(config, workdir=""), runs, predictions, progress=runs.progress)
    study_output.finish(report.report(result), runs, "folds")
    return 0
