"""One process of a made-up job: ``cluster_member.py ADDRESS COUNT INDEX TIMEOUT ACTION…``; see test_cluster.py."""

import sys
import time
from pathlib import Path
from typing import Any

from finetune_jax.commands import command_line
from finetune_jax.devices import agreement, cluster
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import same_run


def act(job: Any, action: str) -> None:
    word, _, value = action.partition("=")
    if word == "fact":
        agreement.agree({"the colour": value}, "paint them alike")
    elif word == "workdir":
        same_run.agree_on_progress(RunDirectory(Path(value)))
    elif word == "fail":
        raise UserError("the disk of this process is full")
    elif word == "crash":
        raise ZeroDivisionError("a defect")
    elif word == "wait":
        print("waiting", flush=True)
        time.sleep(120)
    elif word == "gather":
        print(job.gather(f"text {job.place.index}"), flush=True)
    elif word == "train":
        for step in range(10_000):
            if step == 3:
                print("training", flush=True)
            if job.stop_requested():
                raise Stopped(f"stopped at question {step}")
            job.gather("")  # in place of a collective


def main(words: list[str]) -> int:
    address, count, index, timeout, *actions = words
    command_line._job = job = cluster.join(
        address, int(count), int(index), peer_timeout=float(timeout), stop_timeout=5.0
    )
    for action in actions:
        act(job, action)
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv = sys.argv[:1]
    main.__module__ = "cluster_member"
    sys.modules["cluster_member"] = sys.modules["__main__"]

    def command() -> int:
        return main(arguments)

    command.__module__ = "cluster_member"
    command_line.run(command)
