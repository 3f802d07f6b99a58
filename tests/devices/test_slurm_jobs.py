"""``cluster/*.sbatch`` under a real Slurm of two nodes; skipped where there is none."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCHS = 12


def slurm_has_two_nodes() -> bool:
    if shutil.which("sbatch") is None:
        return False
    nodes = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True, check=False)
    return nodes.returncode == 0 and len(set(nodes.stdout.split())) >= 2


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm_has_two_nodes(), reason="needs a Slurm with two nodes"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment for ``launch.sh`` that is installed and runs this interpreter."""
    venv = tmp_path_factory.mktemp("slurm") / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    content = (ROOT / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    stamp = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout
    (venv / ".installed-base").write_bytes(stamp)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FINETUNE")},
        "VENV": str(venv),
        "NO_JEMALLOC": "1",
        "PAUSE": "0",
        "JAX_PLATFORMS": "cpu",
        "NPROC": "2",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    shared = tmp_path_factory.mktemp("shared")
    return [
        "--dataset=digits",
        "--network=resnet26_policy",
        "--width=0.1",
        "--image_size=8",
        "--pretrained=none",
        "--method=scratch",
        "--batch_size=64",
        "--checkpoint_steps=5",
        f"--epochs={EPOCHS}",
        f"--cache_dir={shared / 'cache'}",
        f"--compilation_cache={shared / 'compiled'}",
    ]


class Job:
    """A job of Slurm, cancelled if the test ends before it."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # From a folder that is not the project's, as on a login node.
        submitted = subprocess.run(
            ["sbatch", "--parsable", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self.number = submitted.stdout.strip()
        self.folder = folder

    def field(self, name: str) -> str:
        shown = subprocess.run(
            ["scontrol", "show", "job", self.number], capture_output=True, text=True, check=True
        ).stdout
        return next(word.partition("=")[2] for word in shown.split() if word.startswith(f"{name}="))

    @property
    def log(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def tasks(self) -> list[int]:
        """Process numbers of the Python processes of its tasks on this machine."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                f"SLURM_JOB_ID={self.number}".encode() in variables
                and b"--coordinator=auto" in words
                and b"-m" in words
            ):
                found.append(int(process.name))
        return sorted(found)

    def wait(self, seconds: float = 1800) -> str:
        """The state in which it ended."""
        deadline = time.monotonic() + seconds
        while (state := self.field("JobState")) not in (
            "COMPLETED",
            "FAILED",
            "CANCELLED",
            "TIMEOUT",
            "NODE_FAIL",
        ):
            assert time.monotonic() < deadline, (state, self.log)
            time.sleep(0.5)
        return state

    def wait_until_it_trains(
        self, workdir: Path, *, before: Sequence[int] = (), seconds: float = 1800
    ) -> list[int]:
        """Its tasks, once they have saved a step; others than those before."""
        deadline = time.monotonic() + seconds
        first = None
        while True:
            folder = workdir / "checkpoints"
            names = os.listdir(folder) if folder.exists() else []
            latest = max((int(name) for name in names if name.isdigit()), default=0)
            tasks = self.tasks()
            if len(tasks) == 2 and not {*tasks} & {*before}:
                first = latest if first is None else first
                if latest > first:
                    return tasks
            assert time.monotonic() < deadline, self.log
            assert self.field("JobState") not in ("FAILED", "COMPLETED"), self.log
            time.sleep(0.05)


@pytest.fixture
def submit(tmp_path: Path, environment: dict[str, str]) -> Iterator[list[Job]]:
    jobs: list[Job] = []
    yield jobs
    for job in jobs:
        subprocess.run(["scancel", job.number], check=False)


def rows(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open(newline="") as lines:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(lines)
        ]


def test_a_run_that_is_requeued_killed_and_stopped_equals_an_undisturbed_one_bit_for_bit(
    submit: list[Job], environment: dict[str, str], flags: list[str], tmp_path: Path
) -> None:
    script = ["--nodes=2", str(ROOT / "cluster" / "slurm.sbatch"), "finetune", *flags]
    calm = Job(tmp_path / "calm", environment, *script, f"--workdir={tmp_path / 'shared' / 'calm'}")
    submit.append(calm)
    assert calm.wait() == "COMPLETED", calm.log
    assert "2 devices (2 processes × 1 CPU)" in calm.log

    workdir = tmp_path / "shared" / "disturbed"
    job = Job(tmp_path / "disturbed", environment, *script, f"--workdir={workdir}")
    submit.append(job)
    tasks = job.wait_until_it_trains(workdir)
    subprocess.run(["scontrol", "requeue", job.number], check=True)  # as a preemption does
    tasks = job.wait_until_it_trains(workdir, before=tasks)

    os.kill(tasks[-1], signal.SIGKILL)
    job.wait_until_it_trains(workdir, before=tasks)
    assert "queued again: a process was lost" in job.log

    # What --signal does before the time limit.
    subprocess.run(["scancel", "--batch", "--signal=TERM", job.number], check=True)
    assert job.wait() == "COMPLETED", job.log
    assert "queued again: it was asked to stop" in job.log
    assert int(job.field("Restarts")) >= 3
    assert rows(workdir) == rows(tmp_path / "shared" / "calm")
    assert len(rows(workdir)) == EPOCHS


def test_a_mistake_in_a_flag_ends_the_job_for_good(
    submit: list[Job], environment: dict[str, str], flags: list[str], tmp_path: Path
) -> None:
    script = ["--nodes=2", str(ROOT / "cluster" / "slurm.sbatch"), "finetune", *flags]
    job = Job(tmp_path / "logs", environment, *script, f"--workdir={tmp_path / 'run'}", "--batch_size=63")
    submit.append(job)
    assert job.wait() == "FAILED"
    assert "--batch_size=63 does not divide by the 2 devices" in job.log
    assert job.field("Restarts") == "0"


def test_the_workers_of_a_job_array_share_one_sweep(
    submit: list[Job], environment: dict[str, str], flags: list[str], tmp_path: Path
) -> None:
    lists = ["--learning_rates=0.01,0.03", "--momenta=0.9", "--weight_decays=0,0.0001"]
    workdir = tmp_path / "sweep"
    words = [flag for flag in flags if "epochs" not in flag]
    script = ["--wait", "--array=0-1", str(ROOT / "cluster" / "slurm_array.sbatch"), "hpo", "--epochs=1"]
    job = Job(tmp_path / "logs", environment, *script, *words, *lists, f"--workdir={workdir}")
    submit.append(job)
    finished = list(workdir.rglob("summary.json"))
    assert len(finished) == 4, job.log


def test_several_tasks_without_a_coordinator_are_refused(
    environment: dict[str, str], flags: list[str], tmp_path: Path
) -> None:
    command = [str(ROOT / "launch.sh"), "finetune", *flags, f"--workdir={tmp_path / 'run'}"]
    started = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", *command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert "give --coordinator=auto to train on all of them together" in started.stderr
    assert not (tmp_path / "run").exists()
