"""Checkpoints of a run: the latest for going on, the best for using.

A checkpoint has these items, restored separately: ``variables`` (the whole network), ``training`` (what only
training needs), ``meta`` (JSON: scores, and everything prediction needs), and whatever else the loop hands
over. Process 0 writes them as host arrays, asynchronously; any process, on any number of devices, reads them.

Checkpoints are numbered by the steps trained so far, passes that were thrown away included; where none was,
that is the step of the state.
"""

import contextlib
import errno
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from finetune_jax.errors import UserError

# Generous for what a checkpoint holds beside its arrays, bytes.
_OVERHEAD = 2**20


class Checkpoints:
    """The ``checkpoints/`` folder of one run, opened for writing by process 0 and for reading by all."""

    def __init__(self, directory: Path, *, writable: bool, keep_all: bool = False) -> None:
        """Open the folder.

        Args:
            directory: of the checkpoints; created where it is to be written.
            writable: whether this process writes.
            keep_all: whether all checkpoints stay, instead of the latest and the best.

        Raises:
            UserError: it cannot be created or written.
        """
        self._directory = directory.absolute()
        self._manager = None
        if writable:
            with self._explained("opened"):
                self._directory.mkdir(parents=True, exist_ok=True)
                self._manager = _manager(self._directory, keep_all)

    @property
    def writable(self) -> bool:
        """Whether this process writes."""
        return self._manager is not None

    def save(
        self, number: int, items: Mapping[str, Any], meta: Mapping[str, Any], *, score: float | None = None
    ) -> None:
        """Save in the background; the latest and the best stay, older ones go.

        Args:
            number: of the checkpoint. One that is there already is not written again.
            items: ``{name: tree of arrays}``, copied to the host before this returns; those without arrays are
                left out.
            meta: JSON.
            score: larger is better; None where the state was not evaluated.

        Raises:
            UserError: the disk is full or not writable, now or in the save before; earlier checkpoints are
                intact.
            ValueError: there is a checkpoint of a later number.
        """
        if self._manager is None or number in self._manager.all_steps():
            return
        if number < (self._manager.latest_step() or 0):
            raise ValueError(f"step {number} comes after a checkpoint of step {self._manager.latest_step()}")
        host = {name: jax.device_get(tree) for name, tree in items.items() if jax.tree.leaves(tree)}
        arguments = ocp.args.Composite(
            meta=ocp.args.JsonSave({**meta, "score": score}),
            **{name: ocp.args.StandardSave(tree) for name, tree in host.items()},
        )
        metrics = None if score is None else {"score": score}
        with self._explained("written"):
            self._manager.wait_until_finished()
            _reserve(self._directory, sum(leaf.nbytes for leaf in jax.tree.leaves(host)) + _OVERHEAD)
            self._manager.save(number, args=arguments, metrics=metrics)

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
            UserError: a save in the background failed; earlier checkpoints are intact.
        """
        manager, self._manager = self._manager, None
        if manager is not None:
            with self._explained("written"):
                try:
                    manager.wait_until_finished()
                finally:
                    manager.close()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and its storage layer raise OSError, ValueError, RuntimeError, …
            kept = latest_step(self._directory)
            rest = "none was written before" if kept is None else f"the one of step {kept} is intact"
            raise UserError(
                f"a checkpoint in {self._directory} could not be {what} ({_reason(error)}); {rest}; "
                "make room or choose another --workdir, then start again"
            ) from error


def whole_steps(directory: Path) -> list[int]:
    """Numbers of the whole checkpoints of a folder, ascending; none where there is no such folder."""
    # A checkpoint gets its final name last; one that a kill cut short still has a temporary name.
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit())


def latest_step(directory: Path) -> int | None:
    """Step of the newest whole checkpoint, None without any."""
    return max(whole_steps(directory), default=None)


def best_step(directory: Path) -> int | None:
    """Step of the checkpoint with the best score (the latest of equals), None without an evaluated one."""
    scores = {step: read_meta(directory, step)["score"] for step in whole_steps(directory)}
    evaluated = [(score, step) for step, score in scores.items() if score is not None]
    return max(evaluated)[1] if evaluated else None


def restore_item(directory: Path, step: int, name: str, like: Any) -> Any:
    """One of the further items of a checkpoint, as host arrays; None where it was saved without this item.

    Arguments and errors as of :func:`restore`.
    """
    if not (directory / str(step) / name).is_dir():
        return None
    return restore(directory, step, **{name: ocp.args.StandardRestore(targets(like))})[name]


def restore_variables(directory: Path, step: int, like: Any) -> Any:
    """The variables of a checkpoint, as host arrays; arguments and errors as of :func:`restore`."""
    return restore(directory, step, variables=ocp.args.StandardRestore(targets(like)))["variables"]


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises:
        UserError: the checkpoint is damaged.
    """
    return restore(directory, step, meta=ocp.args.JsonRestore())["meta"]


def _manager(directory: Path, keep_all: bool) -> ocp.CheckpointManager:
    _hush_orbax()
    policy = ocp.checkpoint_managers
    best = policy.BestN(
        get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False
    )
    # `max_to_keep` would delete the checkpoint just written unless it is among the best.
    latest_and_best = policy.AnyPreservationPolicy([policy.LatestN(1), best])
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["score"],
        preservation_policy=None if keep_all else latest_and_best,
        create=False,
        cleanup_tmp_directories=True,  # what a kill cut short
        # Host arrays are written by process 0 alone, without barriers between processes.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="primary"
        ),
    )
    return ocp.CheckpointManager(directory, options=options)


def targets(tree: Any) -> Any:
    """Host arrays of the same shapes and dtypes, as which Orbax restores a tree on any devices."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def restore(directory: Path, step: int, **items: Any) -> Any:
    """Items of a checkpoint, as host arrays.

    Args:
        directory: the ``checkpoints/`` folder.
        step: one that :func:`latest_step` or :func:`best_step` gave.
        **items: ``name=`` Orbax's restore arguments of it.

    Raises:
        UserError: the checkpoint is of another network or optimiser, or damaged.
    """
    path = directory.absolute() / str(step)
    _hush_orbax()
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*items)) as reader:
            restored = reader.restore(path, args=ocp.args.Composite(**items))
        for name, target in items.items():
            if isinstance(target, ocp.args.StandardRestore):
                jax.tree_util.tree_map_with_path(_check_like, target.item, restored[name])
    except Exception as error:  # a missing key, another shape, a damaged file: all kinds of errors
        raise UserError(
            f"checkpoint {path} cannot be read ({_reason(error)}); "
            "if it is damaged, delete its folder to go on from the one before"
        ) from error
    return restored


def _check_like(path: Any, target: np.ndarray, value: np.ndarray) -> None:
    # Orbax gives host arrays back in the shape in which they were saved, whatever was asked for.
    if value.shape != target.shape:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise ValueError(f"{name} has shape {value.shape} instead of {target.shape}")


def _reserve(directory: Path, size: int) -> None:
    """Ask the file system for ``size`` bytes and give them back.

    Found out before it begins to write, a full disk leaves nothing half written.

    Raises:
        OSError: it does not have them, or does not let this process write.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot tell
                raise


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    # Tensorstore appends its settings; orbax puts the names that differ on the lines after a colon.
    first = lines[0].split(" [tensorstore_spec")[0]
    return f"{first} {lines[1].strip(' :')}" if first.endswith(":") and lines[1:] else first


@functools.cache
def _hush_orbax() -> None:
    """Keep orbax from printing tracebacks of errors that it also raises, from this process's first use on."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # What tensorstore finishes after the first error finds nobody waiting for it.
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook
