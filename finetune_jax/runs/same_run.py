"""What the processes of a job compare before they train a run together: how far it is, and its images."""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_jax.config.named_recipes import VERSION
from finetune_jax.data.examples import Source
from finetune_jax.devices import agreement, cluster
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints, lock, working_copies
from finetune_jax.files.run_directory import STARTING_VERSION, RunDirectory

# A new name is looked up on the server by every network file system; this is for slow ones.
_APPEARING_SECONDS = 3.0


def agree_on_progress(directory: RunDirectory) -> None:
    """Refuse to go on where another process sees another directory, or another state of it.

    Raises:
        UserError: the processes differ.
    """
    _check_shared(directory)
    step = checkpoints.latest_step(directory.checkpoints)
    facts = {
        "the run": "new" if step is None else f"at step {step}",
        "its summary": "written" if directory.summary is not None else "not written",
    }
    agreement.agree(facts, f"--workdir={directory.path} must be a directory that all of them share")


def _check_shared(directory: RunDirectory) -> None:
    """Refuse, before anything is read or compiled, a directory in which process 0 writes and another does not read."""
    job = cluster.active()
    if job is None or working_copies.of(directory.path) is not None:
        return
    with _probe(directory.path, writes=job.place.index == 0) as name:
        name = job.gather(name)[0]
        unshared_paths = job.gather(
            "" if not name or _appears(directory.path / name) else str(directory.path)
        )
    for index, path in enumerate(unshared_paths):
        if path:
            raise UserError(
                f"--workdir={path} of {job.peers.name(index)} is not the directory in which {job.peers.name(0)} "
                "writes; give one that all processes share"
            )


@contextlib.contextmanager
def _probe(folder: Path, *, writes: bool) -> Iterator[str]:
    """Name of a file in a folder, which are there for as long as the block lasts; empty where none can be written."""
    if not writes:
        yield ""
        return
    name = f"{lock.NAME}-shared-{secrets.token_hex(8)}"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError:
        name = ""  # claiming the directory will say why
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            if name:
                (folder / name).unlink(missing_ok=True)
            for path in made:
                path.rmdir()


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _APPEARING_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def agree_on_images(source: Source) -> None:
    """Refuse to train where another process has other images, labels or splits.

    Raises:
        UserError: the processes differ.
    """
    counts = ", ".join(f"{len(examples)} {split}" for split, examples in source.splits.items())
    facts = {"the data set": f"{counts} images (digest {source.fingerprint[:8]})"}
    agreement.agree(facts, f"--dataset={source.name} must be the same on all of them")


def claim(
    directory: RunDirectory, flags: Mapping[str, Any], resolved: Mapping[str, Any] | None = None
) -> None:
    """Make the directory that of the run, first for process 0, which alone writes.

    Raises:
        UserError: as of ``RunDirectory.claim``, or it is not the one in which process 0 writes.
    """
    job = cluster.active()
    if job is not None and job.place.index:
        job.gather()
        working_copies.refresh(directory.path)
    directory.claim(flags, {**(resolved or {}), STARTING_VERSION: VERSION})
    if job is not None and not job.place.index:
        working_copies.publish(directory.path)
        job.gather()
