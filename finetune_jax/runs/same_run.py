"""What the processes of a job compare before they train a run together: how far it is, and its images."""

from finetune_jax.data.examples import Source, fingerprint_of
from finetune_jax.devices import agreement
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory


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
    facts = {
        f"the {split} split": f"{len(examples)} images "
        f"(digest {fingerprint_of(examples.fingerprint, examples.labels.tobytes())[:8]})"
        for split, examples in source.splits.items()
    }
    agreement.agree(facts, f"--dataset={source.name} must be the same on all of them")
