"""What Slurm says of the task that this process is; pure functions of its environment variables.

Variables: https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
"""

import re
from collections.abc import Mapping

from finetune_jax.errors import UserError

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def is_task(environ: Mapping[str, str]) -> bool:
    """Whether ``srun`` started this process, which then knows the other tasks of its step."""
    return all(name in environ for name in ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"))


def host(environ: Mapping[str, str]) -> str | None:
    """Slurm's name of this node; None outside of Slurm."""
    return environ.get("SLURMD_NODENAME")


def lonely_task(environ: Mapping[str, str]) -> str:
    """Why a command without ``--coordinator`` should not run here; empty where it may.

    Several tasks that know nothing of each other would all train into one directory. A shell of ``salloc`` is no
    task, whatever it allocated.
    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or 1)
    if tasks < 2 or "SLURM_PROCID" not in environ:
        return ""
    if is_task(environ):
        return (
            f"this is task {environ['SLURM_PROCID']} of {tasks} that Slurm started with the same command; give "
            "--coordinator=auto to train on all of them together, or start one task (srun --ntasks=1)"
        )
    return (
        f"Slurm reserved {tasks} tasks and this is no task of srun; start the command with srun and "
        "--coordinator=auto, or reserve one task (--ntasks=1)"
    )


def tasks_on_node(environ: Mapping[str, str]) -> int:
    """Number of tasks of this step on this node, from such as ``SLURM_STEP_TASKS_PER_NODE=2(x3),1``."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for tasks, repeated in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(tasks)] * int(repeated or 1)
    node = int(environ.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else 1


def local_device_ids(environ: Mapping[str, str], gpus_present: int = 0) -> tuple[int, ...] | None:
    """The GPUs that this task should drive, as positions among those that it can see.

    JAX by itself gives every task one GPU, the one of its number on the node: seven of eight are idle with one task
    per node, and where Slurm has bound one GPU to each task, the number does not exist. Here a task takes all that
    only it sees, and its even share of those that all tasks of the node see.

    Args:
        environ: environment variables of a task of ``srun``.
        gpus_present: number of GPUs of the node, where no variable lists them.

    Returns:
        Ascending positions; None where there are no GPUs.

    Raises:
        UserError: the tasks of the node cannot share its GPUs evenly.
    """
    listed = next((environ[name] for name in _VISIBLE if environ.get(name)), None)
    visible = len(listed.split(",")) if listed is not None else gpus_present
    if not visible:
        return None
    tasks = tasks_on_node(environ)
    if tasks == 1 or _is_bound(environ, visible, tasks):
        return tuple(range(visible))
    if visible % tasks:
        raise UserError(
            f"--coordinator=auto: {tasks} tasks on node {host(environ) or environ.get('SLURM_NODEID', 0)} cannot "
            f"share its {visible} GPUs evenly; start one task per node or one per GPU"
        )
    share = visible // tasks
    first = int(environ.get("SLURM_LOCALID", 0)) * share
    return tuple(range(first, first + share))


def _is_bound(environ: Mapping[str, str], visible: int, tasks: int) -> bool:
    """Whether the visible GPUs are this task's alone."""
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    if on_node.isdigit() and int(on_node) > visible:
        return True
    bind = environ.get("SLURM_GPU_BIND", "")
    if bind.removeprefix("verbose,").startswith("none"):
        return False
    per_task = environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
    if per_task.isdigit() and int(per_task) == visible:
        return True
    # One GPU that several tasks see cannot be shared; each has its own of the same number.
    return visible == 1 < tasks
