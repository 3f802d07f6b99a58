"""Settings of the process: the cluster it belongs to, its devices, and its cache of compiled programs."""

import os
from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import MACHINE


@dataclass(frozen=True)
class MachineConfig:
    """Where and on what a command runs; every command has these flags, and no run directory keeps them."""

    coordinator: str = setting(
        "",
        "Address host:port of process 0 of several, or auto on Slurm and TPU pods; empty runs a single process.",
        group=MACHINE,
        local=True,
    )
    process_count: int = setting(
        1,
        "Number of processes that --coordinator connects.",
        group=MACHINE,
        range=ranges.COUNT,
        local=True,
        aliases=("nproc", "num_processes", "world_size"),
    )
    process_index: int = setting(
        0,
        "Index of this process among those that --coordinator connects, from 0.",
        group=MACHINE,
        range=ranges.NOT_NEGATIVE,
        local=True,
        aliases=("process_id", "rank", "node_rank"),
    )
    peer_timeout: float = setting(
        60.0,
        "Seconds within which the processes of --coordinator end where one does not come or no longer answers.",
        group=MACHINE,
        range=ranges.POSITIVE,
        local=True,
    )
    stop_timeout: float = setting(
        25.0,
        "Seconds after SIGTERM at which a process of --coordinator ends that has not come to save its state.",
        group=MACHINE,
        range=ranges.POSITIVE,
        local=True,
    )
    virtual_devices: int = setting(
        0,
        "Number of CPU devices to simulate; 0 uses the devices that are there.",
        group=MACHINE,
        range=ranges.NOT_NEGATIVE,
        local=True,
    )
    compilation_cache: str = setting(
        os.path.join("~", ".cache", "finetune_jax", "xla"),
        "Folder in which compiled programs are kept for the next start; empty keeps none.",
        group=MACHINE,
        local=True,
    )
    working_copies: str = setting(
        os.path.join("~", ".cache", "finetune_jax", "working_copies"),
        "Folder of the working copies of a --workdir or --run on an object store.",
        group=MACHINE,
        local=True,
    )
