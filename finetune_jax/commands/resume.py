r"""Go on with a run without typing its flags again.

    finetune-jax resume runs/photos
    finetune-jax resume runs/photos --epochs=30

The settings are those that the run began with; flags of the machine (devices, caches, coordinator) may be given.
A run that has finished prints its result. With more --epochs than it has, finished or not, it goes on to these:
weights, momentum and best score stay, the schedule begins again over the added epochs.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config import recorded
from finetune_jax.config.checks import validate
from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import LOCAL_SETTINGS, FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.files import run_places

_HERE = tuple(sorted(LOCAL_SETTINGS - {"workdir"}))

command_line.define_flags(
    FinetuneConfig, without=[name for name in declared(FinetuneConfig) if name not in (*_HERE, "epochs")]
)


def main(arguments: list[str]) -> int:
    """Run, print the result, return the exit status."""
    if len(arguments) != 1:
        raise UserError("name the run directory to go on with, e.g. finetune-jax resume runs/photos")
    workdir = Path(arguments[0]).expanduser()
    if not (workdir / "flags.json").exists():
        raise UserError(run_places.why_unusable(workdir))
    try:
        recorded_flags = json.loads((workdir / "flags.json").read_text())
        config = recorded.config_of(recorded_flags, FinetuneConfig)
        validate(config)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{workdir.absolute()} is no run directory: flags.json cannot be read ({error})"
        ) from error
    typed = command_line.read_flags(FinetuneConfig)
    changed = {name: getattr(typed, name) for name in _HERE if flags.FLAGS[name].present}
    config = dataclasses.replace(config, workdir=str(workdir), **changed)
    replicas = command_line.start_jax()
    from finetune_jax.runs import finetune, prolong

    if flags.FLAGS["epochs"].present:
        with replicas.fail_together():
            before, config = config, prolong.prolonged(config, typed.epochs)
            if config != before and replicas.is_primary:
                prolong.record(before, config)
                print(prolong.line(before, config), file=sys.stderr)
    summary = finetune.run(config, replicas)
    if replicas.is_primary:
        command_line.show_result(summary, config.workdir)
    return 0
