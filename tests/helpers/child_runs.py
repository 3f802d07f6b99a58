"""Runs in processes of their own, which tests stop, kill or let run out of disk."""

import os
from collections.abc import Sequence
from pathlib import Path

import fork_server
from child_processes import FAST_COMPILATION
from fork_server import Process
from small_runs import write_stripes
from weights import write_weights

REPOSITORY = Path(__file__).parents[2]
EPOCHS = 6


def command_in(home: Path, *flags: str) -> list[str]:
    """A run of 6 epochs of 10 steps with 3 checkpoints each; images and weights are written to ``home``."""
    write_weights(home / "weights.npz")
    write_stripes(home / "photos", 4, 60)
    return [
        "experiments.finetune",
        f"--dataset=folder:{home / 'photos'}",
        f"--cache_dir={home / 'cache'}",
        f"--compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        f"--pretrained={home / 'weights.npz'}",
        "--network=resnet26_policy",
        "--width=0.125",
        "--image_size=8",
        "--batch_size=16",
        f"--epochs={EPOCHS}",
        "--checkpoint_steps=4",
        "--noprobe",
        "--optimizer=sgd",
        *flags,
    ]


def start(command: Sequence[str], workdir: Path, *more: str, threads: int = 2) -> Process:
    """Start it; the number of threads changes the last bits."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "NPROC": str(threads),
        "XLA_FLAGS": FAST_COMPILATION,
    }
    return fork_server.start(*command, f"--workdir={workdir}", *more, environment=environment, cwd=REPOSITORY)


def steps_there(workdir: Path) -> list[int]:
    """Of the checkpoints in a run directory."""
    folder = workdir / "checkpoints"
    return sorted(int(name) for name in os.listdir(folder) if name.isdigit()) if folder.exists() else []
