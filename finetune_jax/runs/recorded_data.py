"""The images that a run began with, beside those that are there now."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, TypeVar

from finetune_jax import data as datasets
from finetune_jax.config import fit_task
from finetune_jax.config.settings import DEFAULTS, DataConfig, FinetuneConfig
from finetune_jax.data import folder, record, split_rules
from finetune_jax.data.examples import Source
from finetune_jax.data.record import Record
from finetune_jax.data.regular_file import read_regular
from finetune_jax.errors import DAMAGE, UserError, readable
from finetune_jax.files.run_directory import RunDirectory

DIGEST, RULE, TASK, SHARDS = "data_digest", "split_rule", "task", "data_shards"
"""Names in ``flags.json`` and ``summary.json``."""

DIVIDING = (
    "dataset",
    "protocol",
    "validation_fraction",
    "test_fraction",
    "train_on_validation",
    "split_seed",
    "folds",
    "fold",
)
"""Settings on which the division of a data set into splits depends."""

DRAWING = (*DIVIDING, "images_per_class")
"""Settings on which it depends what images a run has."""
_FILES = ("folder:", "csv:")
"""Data sets of files that may change."""

_UNREADABLE: tuple[type[Exception], ...] = (OSError, *DAMAGE)


@dataclasses.dataclass(frozen=True)
class Before:
    """What an earlier start of a run tells of its data; all None where there was none.

    Attributes:
        split_rule: version of the rule by which its splits were made.
        digest: of the data.
        record: of the data; None for runs from before there were records.
        task: how its labels were understood; runs from before there were others took them for classes.
        shards: into how many its images were divided; runs from before there were shards had one.
    """

    split_rule: int | None = None
    digest: str | None = None
    record: Record | None = None
    task: str | None = None
    shards: int | None = None

    def check(self, source: Source) -> None:
        """Refuse other data than the run began with.

        Raises:
            UserError: says how many images were added, removed and changed, and names some.
        """
        now = record.record_of(source)
        if now is None or now.digest == self.digest or (self.digest is None and self.record is None):
            return
        changes = "the data has changed since the run began"
        if self.record is not None:
            changes = record.difference(self.record, now)
        if changes:
            raise UserError(
                f"--dataset={readable(source.name)}: {changes}; restore the data to go on with the run, or give "
                "another --workdir to begin a new one"
            )


Config = TypeVar("Config", bound=DataConfig)

NOTHING = Before()
"""What is known before the first start of a run."""


def before(*directories: Path) -> Before:
    """What is known of the data of a run that may have begun in the first of some directories that holds one.

    Args:
        *directories: of the run, and of runs that had the same data.

    Raises:
        UserError: the record is damaged.
    """
    for directory in directories:
        flags = _flags(directory)
        if flags is not None:
            values: dict[str, Any] = flags.get("resolved") or {}
            rule = values.get(RULE, split_rules.BY_COUNT)
            known = read(directory)
            rule = rule if known is None else known.split_rule
            return Before(
                rule,
                values.get(DIGEST),
                known,
                values.get(TASK, "classification"),
                int(values.get(SHARDS, 1)),
            )
    return Before()


def beside(root: Path, config: DataConfig) -> Path | None:
    """A run below a directory that has the images which a config asks for; None where there is none.

    Args:
        root: of the runs of a study.
        config: of another run of it.
    """
    for file in sorted(root.rglob("flags.json")) if root.is_dir() else ():
        flags = _flags(file.parent)
        same = flags is not None and all(
            flags.get(name, DEFAULTS[name]) == getattr(config, name) for name in (*DRAWING, TASK)
        )
        if same:
            return file.parent
    return None


def check_finished(config: FinetuneConfig, directory: RunDirectory) -> None:
    """Refuse a run that has ended with other data than there are now; data that are gone are no contradiction.

    Raises:
        UserError: says how many images were added, removed and changed, and names some.
    """
    earlier = before(directory.path)
    if earlier.digest is None and earlier.record is None:
        return
    source = _files_of(_with_task(config, earlier), earlier.split_rule)
    if source is not None:
        earlier.check(source)


def digest_of(config: FinetuneConfig) -> str | None:
    """Digest of the files that a config names; None for prepared data sets and for files that are gone."""
    source = _files_of(config, None)
    now = None if source is None else record.record_of(source)
    return None if now is None else now.digest


def _files_of(config: FinetuneConfig, split_rule: int | None) -> Source | None:
    if not config.dataset.startswith(_FILES):
        return None
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataConfig)}
    fields["task"] = fit_task.task_of(config)
    try:
        return _opened_once(DataConfig(**fields), split_rule)
    except UserError:
        return None


@functools.lru_cache(maxsize=2)
def _opened_once(config: DataConfig, split_rule: int | None) -> Source:
    """A study asks for the same data once for each of its finished runs."""
    return datasets.load_source(config, silent=True, split_rule=split_rule)


def _flags(directory: Path) -> dict[str, Any] | None:
    """``flags.json`` of a run; None where there is none that can be read."""
    try:
        flags = json.loads((directory / "flags.json").read_bytes())
    except _UNREADABLE:
        return None
    return flags if isinstance(flags, dict) else None


def read(run: Path) -> Record | None:
    """The record in a run directory; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    file = run / record.FILE
    try:
        content = read_regular(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{readable(file)} cannot be read: {error.strerror}") from error
    return record.from_bytes(content, readable(file))


def load(config: DataConfig, earlier: Before, *, silent: bool) -> Source:
    """The data set of a run, split as it was before and with the same images.

    Raises:
        UserError: it cannot be opened, or has changed.
    """
    source = datasets.load_source(_with_task(config, earlier), silent=silent, split_rule=earlier.split_rule)
    earlier.check(source)
    return source


def _with_task(config: Config, earlier: Before) -> Config:
    """The config with the task that an earlier start took the labels for, where it does not name one."""
    if config.task != "auto" or earlier.task in (None, "retrieval"):
        return config
    return dataclasses.replace(config, task=earlier.task)


def resolved(source: Source) -> dict[str, object]:
    """What ``flags.json`` keeps of the data."""
    now = record.record_of(source)
    return {} if now is None else {DIGEST: now.digest, RULE: now.split_rule}


def write(directory: RunDirectory, source: Source) -> None:
    """Keep the record of the data in a run directory that has none."""
    now = record.record_of(source)
    if now is not None and not (directory.path / record.FILE).exists():
        directory.write_file(record.FILE, record.to_bytes(now))


def refuse_workdir_among_images(config: FinetuneConfig) -> None:
    """Refuse a new run directory that would become a part of the data set.

    Raises:
        UserError: it lies in the folder of the images.
    """
    begun = (Path(config.workdir).expanduser() / "flags.json").exists()
    if not begun and folder.contains(config.dataset, config.workdir):
        raise UserError(
            f"--workdir={readable(config.workdir)} lies in the folder of the images, "
            f"--dataset={readable(config.dataset)}; choose a directory outside of it"
        )
