"""What a run is about, in the lines with which it begins and ends."""

from pathlib import Path

from finetune_jax.runs.chosen_rate import Settings
from finetune_jax.runs.program import Program
from finetune_jax.runs.report import seen
from finetune_jax.training.state import parameter_count


def first_lines(program: Program, settings: Settings, directory: Path) -> list[str]:
    """Network, weights, pixels as the network sees them, images, epochs, and where the run is kept."""
    config, of = settings.config, seen(program, settings.config)
    network = program.method.network
    parameters = parameter_count(network.shapes()["params"])
    pretrained = "random weights" if of["weights"] == "none" else f"weights {of['weights']}"
    splits = " / ".join(
        f"{len(arrays.labels):,} {split}"
        for split, arrays in program.images.splits.items()
        if len(arrays.labels)
    )
    return [
        f"{network.architecture} ({parameters / 1e6:.1f} M parameters, {pretrained}), images as {of['pixels']}; "
        f"{of['classes']} classes, {splits} images of {program.images.source.name}",
        f"--method={config.method}, {config.epochs} epochs of {program.images.steps_per_epoch} steps; "
        f"kept in {directory.absolute()}",
    ]


def last_lines(directory: Path, protocol: str) -> list[str]:
    """The next two commands: look at the run, use it."""
    lines = [f"report: {directory / 'report.html'}"]
    if protocol == "classification":
        lines.append(f"label photos: finetune-jax predict --run={directory} PHOTO …")
    else:
        lines.append(
            f"embed photos: finetune-jax predict --run={directory} --embeddings=features.npz PHOTO …"
        )
    return lines
