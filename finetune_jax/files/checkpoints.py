"""Checkpoints of a run: the latest for going on, the best for using.

A checkpoint has these items, restored separately: ``variables`` (the whole network), ``training`` (what only
training needs), ``meta`` (JSON: scores, and everything prediction needs), and whatever else the loop hands
over. Process 0 writes them as host arrays, asynchronously; any process, on any number of devices, reads them.

Checkpoints are numbered by the steps trained so far, passes that were thrown away included; where none was,
that is the step of the state.

``meta`` holds a digest of every array and of itself, which reading checks. An old checkpoint is renamed before it
is deleted, so that whatever has a step's name is whole.

Parameters that were in shares over the devices are saved as they were, by each process its own, and come back whole
(``files.saved_shares``).
"""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from finetune_jax.devices import cluster
from finetune_jax.errors import UserError, readable
from finetune_jax.files import causes, digests, saved_shares

# Generous for what a checkpoint holds beside its arrays, bytes.
_OVERHEAD = 2**20
# Begins the name of what is being deleted.
_DELETED = ".deleted-"
# What a checkpoint of Orbax has once it is whole.
_MARKER = "commit_success.txt"
_METADATA = "_CHECKPOINT_METADATA"
# Entries of the JSON that are the reader's business alone: digests of the arrays, and of the JSON itself.
_ARRAYS, _SELF = "digests", "digest"


class Checkpoints:
    """The ``checkpoints/`` folder of one run, opened for writing by process 0 and for reading by all."""

    def __init__(
        self,
        directory: Path,
        *,
        writable: bool,
        keep_all: bool = False,
        keep_best: int = 1,
        together: bool = False,
    ) -> None:
        """Open the folder.

        Args:
            directory: of the checkpoints; created where it is to be written.
            writable: whether this process writes.
            together: whether all processes of the job write, each its rows of arrays in shares. All of them
                then call everything equally often.
            keep_all: whether all checkpoints stay, instead of the latest and the best.
            keep_best: how many of the best stay.

        Raises:
            UserError: it cannot be created or written.
        """
        self._directory = directory.absolute()
        self._keep_all, self._keep_best = keep_all, keep_best
        self.together = together
        self._deletes = not together or jax.process_index() == 0
        self._scores: dict[int, float | None] = {}
        self._manager = None
        if writable:
            with self._explained("opened"):
                if self._deletes:
                    self._directory.mkdir(parents=True, exist_ok=True)
                    self._delete_leftovers()
                if together and (job := cluster.active()) is not None:
                    job.gather()  # the folder is there, and Orbax's own barriers come next
                self._manager = _manager(self._directory, together)

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
            UserError: the disk is full or not writable, now or in the save before; earlier checkpoints stay as
                they were.
            ValueError: there is a checkpoint of a later number.
        """
        if self._manager is None or number in self._manager.all_steps():
            return
        if number < (self._manager.latest_step() or 0):
            raise ValueError(f"step {number} comes after a checkpoint of step {self._manager.latest_step()}")
        present = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
        host = present if self.together else jax.device_get(present)
        if saved_shares.are_in(meta):
            recorded: dict[str, Any] = saved_shares.digests_of(host)
        else:
            recorded = {name: digests.of_tree(tree) for name, tree in host.items()}
        content = {**meta, "score": score, _ARRAYS: recorded}
        arguments = ocp.args.Composite(
            meta=ocp.args.JsonSave({**content, _SELF: digests.of_json(content)}),
            **{name: ocp.args.StandardSave(tree) for name, tree in host.items()},
        )
        metrics = None if score is None else {"score": score}
        with self._explained("written"):
            self._manager.wait_until_finished()
            self._delete_surpassed()
            _reserve(self._directory, sum(leaf.nbytes for leaf in jax.tree.leaves(host)) + _OVERHEAD)
            self._manager.save(number, args=arguments, metrics=metrics)
            if self.together:
                # Process 0 finishes the folder; the others must not go on to a next one meanwhile.
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is on disk.

        Raises:
            UserError: a save in the background failed; earlier checkpoints stay as they were.
        """
        manager, self._manager = self._manager, None
        if manager is not None:
            with self._explained("written"):
                try:
                    manager.wait_until_finished()
                    self._delete_surpassed()
                finally:
                    manager.close()

    def _delete_surpassed(self) -> None:
        """Delete all checkpoints but the latest and the best ones (the latest of equals)."""
        steps = whole_steps(self._directory)
        if self._keep_all or not self._deletes or len(steps) < 2:
            return
        for step in steps:
            if step not in self._scores:
                self._scores[step] = read_meta(self._directory, step)["score"]
        kept = {steps[-1], *_ranked({step: self._scores[step] for step in steps})[: self._keep_best]}
        for step in steps:
            if step not in kept:
                _delete(self._directory / str(step))

    def _delete_leftovers(self) -> None:
        """Delete what a kill has left: deletions that had begun, and steps that are not whole."""
        for entry in self._directory.glob(f"{_DELETED}*"):
            shutil.rmtree(entry, ignore_errors=True)
        whole = whole_steps(self._directory)
        for entry in list(self._directory.iterdir()):
            number = _number(entry)
            if number is not None and number not in whole:
                _delete(entry)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # orbax and its storage layer raise OSError, ValueError, RuntimeError, …
            kept = latest_step(self._directory)
            rest = "none was written before" if kept is None else f"the one of step {kept} is intact"
            raise UserError(
                f"a checkpoint in {readable(self._directory)} could not be {what} ({causes.reason(error)}); {rest}; "
                f"{causes.remedy(error, self._directory)}"
            ) from error


def whole_steps(directory: Path) -> list[int]:
    """Numbers of the whole checkpoints of a folder, ascending; none where there is no such folder."""
    # A checkpoint gets its final name last; one that a kill cut short still has a temporary name. Versions that
    # deleted without renaming may have left a part of an old one, though, under its final name.
    try:
        entries = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = ((_number(entry), entry) for entry in entries)
    return sorted(number for number, entry in numbers if number is not None and _is_whole(entry))


def latest_step(directory: Path) -> int | None:
    """Step of the newest whole checkpoint, None without any."""
    return max(whole_steps(directory), default=None)


def best_step(directory: Path) -> int | None:
    """Step of the checkpoint with the best score (the latest of equals), None without an evaluated one."""
    return next(iter(best_steps(directory)), None)


def best_steps(directory: Path) -> list[int]:
    """Steps of the evaluated checkpoints, the one with the best score first (the latest of equals)."""
    return _ranked({step: read_meta(directory, step)["score"] for step in whole_steps(directory)})


def _ranked(scores: Mapping[int, float | None]) -> list[int]:
    evaluated = [(score, step) for step, score in scores.items() if score is not None]
    return [step for _, step in sorted(evaluated, reverse=True)]


def _number(entry: Path) -> int | None:
    """The step that a folder is named after."""
    name = entry.name
    return int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else None


def _is_whole(entry: Path) -> bool:
    if not (entry / _METADATA).is_file() or not (entry / "meta" / "metadata").is_file():
        return False
    # Where Orbax writes markers at all it writes that of the step last.
    return (entry / _MARKER).exists() or not any(entry.glob(f"*/{_MARKER}"))


def _delete(entry: Path) -> None:
    # Renamed first: a kill in the middle must not leave a part of it under its name.
    aside = entry.with_name(f"{_DELETED}{entry.name}-{uuid.uuid4().hex[:8]}")
    entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


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
    """The JSON of a checkpoint, without the digests.

    Raises:
        UserError: the checkpoint is damaged.
    """
    meta = _whole_meta(directory, step)
    return {name: value for name, value in meta.items() if name not in (_ARRAYS, _SELF)}


def _whole_meta(directory: Path, step: int) -> dict[str, Any]:
    with _readable(directory, step):
        meta = json.loads((directory / str(step) / "meta" / "metadata").read_bytes())
        if not isinstance(meta, dict):
            raise ValueError("its metadata is not a JSON object")
        if _SELF in meta or _ARRAYS in meta:  # checkpoints of earlier versions have neither
            content = {name: value for name, value in meta.items() if name != _SELF}
            if digests.of_json(content) != meta.get(_SELF):
                raise ValueError("its metadata is not what was saved")
        score = meta.get("score")
        if "score" not in meta or not (score is None or type(score) in (int, float)):
            raise ValueError("its metadata has no score")
    return meta


@contextlib.contextmanager
def _readable(directory: Path, step: int) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a missing key, another shape, a damaged file: all kinds of errors
        others = [number for number in whole_steps(directory) if number != step]
        advice = (
            f"delete its folder to go on from the one before, of step {others[-1]}"
            if others
            else "there is no other one: bring it back from a copy, or choose another --workdir"
        )
        raise UserError(
            f"checkpoint {readable(directory.absolute() / str(step))} cannot be read ({causes.reason(error)}); "
            f"if it is damaged, {advice}"
        ) from error


def _manager(directory: Path, together: bool) -> ocp.CheckpointManager:
    _hush_orbax()
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["score"],
        # Which stay is decided here, by scores that are known to be intact.
        preservation_policy=None,
        create=False,
        cleanup_tmp_directories=True,  # what a kill cut short
        # Host arrays are written by process 0 alone, without barriers between processes. Where all write, the barriers
        # are those of the coordination service and no collectives.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=0,
            active_processes=set(range(jax.process_count() if together else 1)),
            barrier_sync_key_prefix="together" if together else "primary",
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
    meta = _whole_meta(directory, step)
    recorded = meta.get(_ARRAYS)
    _hush_orbax()
    with _readable(directory, step):
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*items)) as reader:
            composite = reader.restore(path, args=ocp.args.Composite(**items))
        restored = {name: composite[name] for name in items}
        for name, target in items.items():
            if not isinstance(target, ocp.args.StandardRestore):
                continue
            if saved_shares.are_in(meta):
                saved_shares.check(restored[name], (recorded or {}).get(name, {}))
                restored[name] = saved_shares.joined(target.item, restored[name], meta)
            jax.tree_util.tree_map_with_path(_check_like, target.item, restored[name])
            if recorded is not None and not saved_shares.are_in(meta):
                digests.check_tree(restored[name], recorded.get(name, {}))
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
