"""More epochs for a run, in its own directory, with all that it has learned.

A run of 20 epochs that is prolonged to 30 is, bit for bit, the run that ``--epochs=30 --restart_epochs=20`` would have
been: the added epochs have the rates of a training of 10 epochs, warm-up included, and weights, momentum, random
numbers and the best score so far go on. A constant rate has no schedule to begin again: there it is the run that
``--epochs=30`` would have been.
"""

import dataclasses
import json
import shutil
from pathlib import Path

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError, readable
from finetune_jax.files import causes, checkpoints, lock
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.whole_file import replace_whole

_OF_A_STUDY = ("report.html", "results.md", "results.txt")


def prolonged(config: FinetuneConfig, epochs: int) -> FinetuneConfig:
    """The config of a run with more epochs.

    Args:
        config: of the run as it is recorded, with its ``workdir``.
        epochs: of the whole run; as many as it has change nothing.

    Raises:
        UserError: there are no more, or the run cannot go on; says why, and what can be done instead.
    """
    if epochs == config.epochs:
        return config
    run = Path(config.workdir)
    if epochs < config.epochs:
        raise UserError(
            f"--epochs={epochs} is fewer than the {config.epochs} of {readable(run.absolute())}; give all epochs "
            "that the run shall have"
        )
    if why := _obstacle(config, run):
        raise UserError(
            f"{readable(run.absolute())} cannot be prolonged: {why}; begin a new run from its result: finetune-jax "
            f"finetune --pretrained={readable(run)} --keep_head --epochs={epochs - config.epochs} and the data, in "
            "another --workdir"
        )
    restarts = (
        config.restart_epochs if config.schedule == "constant" else (*config.restart_epochs, config.epochs)
    )
    more = dataclasses.replace(config, epochs=epochs, restart_epochs=restarts)
    validate(more)
    return more


def line(before: FinetuneConfig, after: FinetuneConfig) -> str:
    """What was done, for people."""
    added = after.epochs - before.epochs
    schedule = (
        "at the same constant rate"
        if after.restart_epochs == before.restart_epochs
        else f"in which the {after.schedule} schedule begins again"
    )
    return f"prolonged from {before.epochs} to {after.epochs} epochs: {added} more, {schedule}"


def record(before: FinetuneConfig, after: FinetuneConfig) -> None:
    """Make the directory that of the prolonged run; its summary is kept as ``summary-EPOCHS.json``.

    A kill at any time leaves the run as it was or as it will be.

    Args:
        before: of the run, with its ``workdir``.
        after: of :func:`prolonged`.

    Raises:
        UserError: another process trains in it, or it cannot be written.
    """
    run = Path(before.workdir)
    with lock.locked(run):
        flags = json.loads((run / "flags.json").read_bytes())
        flags |= {"epochs": after.epochs, "restart_epochs": list(after.restart_epochs)}
        try:
            summary = run / "summary.json"
            if summary.exists():
                summary.replace(run / f"summary-{before.epochs}.json")
            # What was put together from the best epoch until now; another one may be the best at the end.
            if (compact := run / "compact").is_dir():
                aside = run / ".compact.deleted"
                shutil.rmtree(aside, ignore_errors=True)
                compact.replace(aside)
                shutil.rmtree(aside)
            content = json.dumps(flags, indent=2, sort_keys=True) + "\n"
            replace_whole(run / "flags.json", content.encode())
            RunDirectory(run).note(line(before, after))
        except OSError as error:
            raise UserError(
                f"{readable(run.absolute())} cannot be written: {causes.reason(error)}"
            ) from error


def _obstacle(config: FinetuneConfig, run: Path) -> str | None:
    """Why a run cannot go on; None where it can."""
    study = next((place for place in run.absolute().parents if _is_study(place)), None)
    if study is not None:
        return f"it belongs to the study {readable(study)}, which compares runs of equal length"
    if config.swa_epochs:
        return f"--swa_epochs={config.swa_epochs} has averaged the last epochs of a run"
    directory = RunDirectory(run)
    rows = directory.read_metrics()
    stopped = config.early_stopping and directory.summary is not None and rows
    if stopped and int(rows[-1]["epoch"]) < config.epochs:
        after = rows[-1]["epoch"]
        return f"--early_stopping={config.early_stopping} has ended it after epoch {after}, and would do so again"
    step = checkpoints.latest_step(directory.checkpoints)
    if step is None and directory.summary is not None:
        return "it has no checkpoint"
    if step is not None and not (directory.checkpoints / str(step) / "training").is_dir():
        return "runs --free has given back the state of its optimiser"
    return None


def _is_study(place: Path) -> bool:
    """Whether a directory is that of a study, which keeps runs below ``runs/``."""
    return (place / "runs").is_dir() and all((place / name).is_file() for name in _OF_A_STUDY)
