"""The ``--case`` flags of comparisons: data sets with networks, in each of which contestants train."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EPOCHS = 5


def parser(description: str | None, *, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """A parser with the flags that all comparisons have.

    Args:
        description: of the comparison.
        seeds: by default.
    """
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workdir", required=True, help="Directory of runs and results.")
    arguments.add_argument(
        "--case",
        action="append",
        required=True,
        help="A name, then settings of finetune with their values; may be repeated.",
    )
    arguments.add_argument("--epochs", type=int, default=EPOCHS)
    arguments.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    return arguments


def case_of(text: str, epochs: int) -> tuple[str, Any]:
    """Name and config of a ``--case``."""
    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig

    name, *settings = shlex.split(text)
    values: dict[str, Any] = {"epochs": epochs, "batch_size": 32}
    for setting in settings:
        key, _, value = setting.partition("=")
        values[key] = type(declared(FinetuneConfig)[key].default)(value)
    return name, FinetuneConfig(**values)


def changes_of(base: Any) -> dict[str, Any]:
    """What sets the config of a case apart from the defaults, and its epochs and batch size in any case."""
    from finetune_jax.config.settings import DEFAULTS

    changes = {key: value for key, value in vars(base).items() if value != DEFAULTS[key]}
    return {**changes, "epochs": base.epochs, "batch_size": base.batch_size}


def cells(texts: Sequence[str], epochs: int, workdir: str) -> Iterator[tuple[str, Any, Any]]:
    """Start JAX, and go through the cases: the name, the config and the runs of each.

    Args:
        texts: the ``--case`` flags.
        epochs: of cases that say none.
        workdir: of the comparison; a cell has a directory in it.
    """
    import jax

    from finetune_jax.devices.replicas import local_replicas, prepare_backend
    from finetune_jax.studies.runs import Runs

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    prepare_backend()
    replicas = local_replicas()
    for text in texts:
        name, base = case_of(text, epochs)
        # The runs of a study have the same images.
        yield name, base, Runs(Path(workdir) / name, replicas)
