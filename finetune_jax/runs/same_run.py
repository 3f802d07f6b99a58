"""What the processes of a job compare before they train a run together: how far it is, and its images."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.config.named_recipes import VERSION
from finetune_jax.data.examples import Source
from finetune_jax.devices import agreement, cluster
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import STARTING_VERSION, RunDirectory


def agree_on_progress(directory: RunDirectory) -> None:
    """Refuse to go on where another process sees another state of the run directory.

    Raises:
        UserError: the processes differ.
    """
    step = checkpoints.latest_step(directory.checkpoints)
    facts = {
        "the run": "new" if step is None else f"at step {step}",
        "its summary": "written" if directory.summary is not None else "not written",
    }
    agreement.agree(facts, f"--workdir={directory.path} must be a directory that all of them share")


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
    directory.claim(flags, {**(resolved or {}), STARTING_VERSION: VERSION})
    if job is not None and not job.place.index:
        job.gather()
