"""What a run is about, in the lines with which it begins and ends."""

import math
import textwrap
from pathlib import Path

import jax

from finetune_jax.config.choices import VALUE_LOSSES
from finetune_jax.config.methods import PLAIN_START, start_of
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.shares import share_shape
from finetune_jax.runs.chosen_rate import Settings
from finetune_jax.runs.program import Program, initial_state
from finetune_jax.runs.report import seen
from finetune_jax.training.state import parameter_count

_WIDTH = 100
_SPLITS = ("train", "validation", "test", "gallery")


def first_lines(program: Program, settings: Settings, directory: Path) -> list[str]:
    """Network, weights, pixels as the network sees them, images, epochs, and where the run is kept."""
    config, of = settings.config, seen(program, settings.config)
    network = program.method.network
    parameters = parameter_count(network.shapes()["params"])
    pretrained = "random weights" if of["weights"] == "none" else f"weights {of['weights']}"
    counts = {split: len(arrays.labels) for split, arrays in program.images.splits.items()}
    splits = " / ".join(f"{counts[split]:,} {split}" for split in _SPLITS if counts.get(split))
    names = program.images.class_names
    what = f"{of['classes']} classes"
    if program.task.name == "regression":
        what = f"numbers ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
    lines = [
        f"{network.architecture} ({parameters / 1e6:.1f} M parameters, {pretrained}), images as {of['pixels']}; "
        f"{what}, {splits} images of {program.images.source.name}",
        f"--method={config.method}, {_counted(config.epochs, 'epoch')} of "
        f"{_counted(program.images.steps_per_epoch, 'step')}; "
        f"kept in {directory.absolute()}",
        _of_task(program, config),
        *note_on_rate(network.architecture, config),
    ]
    return [*lines, shares_line(program, config)] if config.shard_parameters else lines


def note_on_rate(architecture: str, config: FinetuneConfig) -> list[str]:
    """A line where a transformer from a file would start at the rate of convolutions; see docs/results.md.

    Args:
        architecture: name of the network.
        config: of the run, its rate still as it was given.
    """
    moves_everything = start_of(config.method) == PLAIN_START
    too_fast = config.optimizer == "adamw" and config.learning_rate == PLAIN_START["learning_rate"]
    if not (architecture.startswith("vit") and moves_everything and too_fast and config.pretrained != "none"):
        return []
    return [
        "note: AdamW at 0.001 taught the transformer of our comparison nothing, and 0.00003 did; give "
        "--learning_rate=0.00003 with --optimizer=adamw, or name the network with --network"
    ]


def _counted(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def shares_line(program: Program, config: FinetuneConfig) -> str:
    """What ``--shard_parameters`` saves: parameters, state of the optimiser and averages, on each device."""
    replicas = program.replicas
    if not program.placement.in_shares:
        return "note: --shard_parameters: there is only one device, which holds everything"
    state = jax.eval_shape(lambda: initial_state(program, config))
    arrays = jax.tree.leaves(
        (state.params, state.frozen, state.opt_state, (state.averages or {}).get("params"))
    )
    shares = sum(math.prod(share_shape(leaf.shape, replicas.count)) * leaf.dtype.itemsize for leaf in arrays)
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays)
    return (
        f"--shard_parameters: {shares / 1e6:,.1f} MB of parameters and optimiser on each of {replicas.count} devices "
        f"instead of {whole / 1e6:,.1f} MB"
    )


def wrapped(line: str) -> str:
    """A line for a terminal, in lines of at most 100 characters, the further ones indented.

    Words, such as paths, stay whole.
    """
    return textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _of_task(program: Program, config: FinetuneConfig) -> str:
    """What is learned, and what chose that."""
    chosen_by = "--task"
    if config.task == "auto":
        chosen_by = "by the labels"
        if config.protocol == "retrieval":
            chosen_by = "--protocol"
        elif config.loss in VALUE_LOSSES:
            chosen_by = f"--loss={config.loss}"
    return f"task: {program.task.name} ({chosen_by})"


def last_lines(directory: Path, protocol: str) -> list[str]:
    """Where its report is, if it has one, and the next command, which uses it."""
    page = directory / "report.html"
    lines = [f"report: {page}"] if page.exists() else []
    if protocol == "classification":
        lines.append(f"label photos: finetune-jax predict --run={directory} PHOTO …")
    else:
        lines.append(
            f"embed photos: finetune-jax predict --run={directory} --embeddings=features.npz PHOTO …"
        )
    return lines
