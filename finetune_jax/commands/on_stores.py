"""Flags of a command that name directories on object stores: working copies take their place."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from finetune_jax.config import object_stores
from finetune_jax.config.settings import MachineConfig
from finetune_jax.errors import UserError
from finetune_jax.files import lock, working_copies
from finetune_jax.files.working_copy import WorkingCopy

_READ = ("run", "runs", "pretrained")
"""Flags that name runs, or weights, which are read."""
_INDICES = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")

_working: list[WorkingCopy] = []


def with_copies(command: str, words: list[str], machine: MachineConfig) -> list[str]:
    """The words of a command line with copies in the place of addresses, and the flags changed likewise.

    Args:
        command: its name.
        words: what is no flag, the program first.
        machine: of the process.

    Raises:
        UserError: an address is of no use to the command, or the store does not give it.
    """
    root = Path(machine.working_copies).expanduser()
    for name in ("workdir", *_READ):
        if name in flags.FLAGS and flags.FLAGS[name].present and flags.FLAGS[name].value:
            flag: Any = flags.FLAGS[name]
            values = flag.value if isinstance(flag.value, list) else [flag.value]
            local = [
                _local(name, value, root, machine, listing=False) if object_stores.is_read(value) else value
                for value in values
            ]
            flag.value = local if isinstance(flag.value, list) else local[0]
    _refuse_others()
    changed = words[:1]
    for word in words[1:]:
        if command in ("runs", "resume") and object_stores.is_read(word):
            if command == "runs" and flags.FLAGS["free"].value:
                raise UserError(
                    "--free is for run directories of this machine, not for those on object stores"
                )
            name = "workdir" if command == "resume" else ""
            word = _local(name, word, root, machine, listing=command == "runs")
        elif refusal := object_stores.refusal("", word):
            raise UserError(refusal.removeprefix("--="))
        changed.append(word)
    return changed


def _local(name: str, address: str, root: Path, machine: MachineConfig, *, listing: bool) -> str:
    flag = f"--{name}={address}" if name else address
    if name == "workdir":
        _refuse_shares(flag, machine)
        index = machine.process_index or int(
            next((os.environ[key] for key in _INDICES if key in os.environ), 0)
        )
        copy = working_copies.hold(address, root, flag, index)
        copy.fetch()
        _working.append(copy)
    elif listing:
        copy = working_copies.hold(address, root / "listings", flag)
        copy.fetch_listing()
    else:
        return str(working_copies.read(address, root, flag))
    return str(copy.folder)


def _refuse_shares(flag: str, machine: MachineConfig) -> None:
    if machine.coordinator and "shard_parameters" in flags.FLAGS and flags.FLAGS["shard_parameters"].value:
        raise UserError(
            f"{flag}: with --shard_parameters every process writes its part of a checkpoint, for which several "
            "processes need one file system; mount the bucket as a folder and name that"
        )


def _refuse_others() -> None:
    """Refuse addresses that no command reads, before a folder of that name is made."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and name != "storage":
            for value in flag.value if isinstance(flag.value, list) else [flag.value]:
                if isinstance(value, str) and (refusal := object_stores.refusal(name, value)):
                    raise UserError(refusal)


def begin(job: Any, at_end: contextlib.ExitStack) -> None:
    """Work on the directories from now on: process 0 commits them, the others read what it commits.

    Args:
        job: of this process; None where it works alone.
        at_end: commits the end.

    Raises:
        UserError: another process works on one of them, or the store does not take it.
    """
    first = job is None or job.place.index == 0
    for copy in _working:
        if first:
            copy.begin()
            at_end.callback(copy.close)
            print(
                f"note: {copy.flag} is worked on in {copy.folder} and committed as it grows", file=sys.stderr
            )
    if job is not None and _working:
        job.gather()
        if not first:
            for copy in _working:
                copy.fetch()
    for copy in working_copies.read_copies() if first else ():
        at_end.callback(copy.give_back)


def leave() -> None:
    """At the end of a process that its job ends: let others have what it holds."""
    lock.release_all()
    working_copies.let_go()
