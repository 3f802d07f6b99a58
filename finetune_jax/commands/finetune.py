r"""Fine-tune a pretrained network.

    finetune-jax finetune --dataset=folder:photos --workdir=runs/photos

Started again with the same flags it goes on where it stopped. Flags that are not given have the values of the
method's paper (``--method=autolr`` trains 50 epochs with batches of 40), but for optimiser and rates where others were
better in our own comparison; ``--recipe=paper`` takes the paper's there too. ``--recipe=NAME`` gives other values, and
``--print_flags`` shows them:

    finetune-jax finetune --dataset=folder:photos --recipe=autogluon --epochs=10 --print_flags
"""

import dataclasses
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config import flag_file
from finetune_jax.config.named_recipes import DEFAULT, NAMED_RECIPES, VERSION, starting_config, unchanged
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(FinetuneConfig)
flags.DEFINE_enum(
    "recipe",
    DEFAULT,
    list(NAMED_RECIPES),
    "Set of settings for all flags that are not given: what others fine-tune with, see docs/guides/recipes.md.",
)
flags.DEFINE_bool(
    "print_flags", False, "Print the flags of the run as a flag file, defaults left out, and train nothing."
)


def _version(workdir: str) -> int:
    """Of the values that flags start from: a run goes on with those that it began with."""
    path = Path(workdir).expanduser()
    if not workdir or not path.is_dir():
        return VERSION
    from finetune_jax.files.run_directory import RunDirectory

    return RunDirectory(path).starting_version or VERSION


def main() -> int:
    """Run, print the result, return the exit status."""
    values = flags.FLAGS
    typed = command_line.typed_settings()
    start = starting_config(
        recipe=values.recipe,
        method=typed.get("method"),
        optimizer=typed.get("optimizer"),
        typed=typed,
        version=_version(values.workdir),
    )
    config = command_line.read_flags(FinetuneConfig, base=start)
    if values.print_flags:
        print(flag_file.as_flags(config, unchanged(config)), end="")
        return 0
    if not config.workdir:
        workdir = command_line.new_workdir(config.dataset, config.method)
        config = dataclasses.replace(config, workdir=workdir)
    replicas = command_line.start_jax()
    command_line.show_devices(replicas)
    from finetune_jax.runs import finetune

    summary = finetune.run(config, replicas)
    if replicas.is_primary:
        command_line.show_result(summary, config.workdir)
    return 0
