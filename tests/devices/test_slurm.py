"""What a task reads from Slurm's variables, for the ways in which people start tasks on GPUs."""

import pytest

from finetune_jax.devices import slurm
from finetune_jax.errors import UserError

EIGHT = "0,1,2,3,4,5,6,7"


def task(local: int = 0, tasks: str = "1(x2)", node: int = 0, **more: str) -> dict[str, str]:
    return {
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_PROCID": str(8 * node + local),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        **more,
    }


@pytest.mark.parametrize("node", [0, 1])
def test_one_task_per_node_drives_all_of_its_gpus(node: int) -> None:
    variables = task(node=node, CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPUS_ON_NODE="8")
    assert slurm.local_device_ids(variables) == tuple(range(8))


def test_one_task_per_gpu_without_binding_takes_the_one_of_its_number() -> None:
    for local in range(8):
        variables = task(local, "8(x2)", CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPUS_ON_NODE="8")
        assert slurm.local_device_ids(variables) == (local,)


def test_one_task_per_gpu_with_binding_takes_the_only_one_that_it_sees() -> None:
    # With device cgroups, every task sees its GPU as number 0; without, by its number on the node.
    for local in range(8):
        for visible in ("0", str(local)):
            variables = task(local, "8(x2)", CUDA_VISIBLE_DEVICES=visible, SLURM_GPUS_PER_TASK="1")
            assert slurm.local_device_ids(variables) == (0,)
            variables = task(local, "8(x2)", CUDA_VISIBLE_DEVICES=visible, SLURM_GPUS_ON_NODE="8")
            assert slurm.local_device_ids(variables) == (0,)


def test_two_tasks_per_node_share_what_both_see_and_keep_what_is_bound() -> None:
    for local, share in enumerate([(0, 1, 2, 3), (4, 5, 6, 7)]):
        shared = task(local, "2(x2)", CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPUS_ON_NODE="8")
        assert slurm.local_device_ids(shared) == share
        bound = task(local, "2(x2)", CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_GPUS_ON_NODE="8")
        assert slurm.local_device_ids(bound) == (0, 1, 2, 3)
        unbound = task(
            local, "2(x2)", CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_GPUS_PER_TASK="4", SLURM_GPU_BIND="none"
        )
        assert slurm.local_device_ids(unbound) == (2 * local, 2 * local + 1)


def test_gpus_that_tasks_cannot_share_evenly_are_refused() -> None:
    variables = task(1, "3,1", CUDA_VISIBLE_DEVICES=EIGHT, SLURMD_NODENAME="n7")
    with pytest.raises(UserError, match="3 tasks on node n7 cannot share its 8 GPUs evenly"):
        slurm.local_device_ids(variables)


def test_gpus_that_no_variable_lists_are_those_of_the_node() -> None:
    assert slurm.local_device_ids(task(), gpus_present=4) == (0, 1, 2, 3)
    assert slurm.local_device_ids(task(1, "2(x2)"), gpus_present=4) == (2, 3)
    assert slurm.local_device_ids(task(), gpus_present=0) is None


def test_amd_gpus_are_listed_by_another_variable() -> None:
    assert slurm.local_device_ids(task(ROCR_VISIBLE_DEVICES="0,1")) == (0, 1)


@pytest.mark.parametrize(
    ("text", "counts"), [("1(x2)", [1, 1]), ("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("3,1(x2)", [3, 1, 1])]
)
def test_tasks_per_node_are_written_run_by_run(text: str, counts: list[int]) -> None:
    assert [slurm.tasks_on_node(task(tasks=text, node=node)) for node in range(len(counts))] == counts


def test_tasks_that_know_nothing_of_each_other_are_refused() -> None:
    assert "this is task 1 of 16" in slurm.lonely_task(task(1))
    # The script of a job that reserved several tasks, as Slurm 22.05 starts it.
    batch = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    assert "start the command with srun" in slurm.lonely_task(batch)
    for alone in ({}, {"SLURM_NTASKS": "2"}, {**task(), "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2"}):
        assert slurm.lonely_task(alone) == ""
