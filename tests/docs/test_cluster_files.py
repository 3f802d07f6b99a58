"""Form of the files in ``cluster/``; what they start is tested where there is a Slurm."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = sorted([*CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch")])
LINKED = re.compile(r"\[[^]]+\]\(([^)]+)\)")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_find_nothing_in_a_script(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is not None:
        found = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_without_arguments_says_how_it_is_used(script: Path) -> None:
    ended = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert ended.returncode == 2
    assert script.name in ended.stderr


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"--([a-z]+_[a-z_]+)=", text))


def test_the_flags_in_the_files_exist() -> None:
    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig, MachineConfig

    known = {*declared(FinetuneConfig), *declared(MachineConfig)}
    for file in CLUSTER.iterdir():
        assert flags_in(file.read_text()) <= known, file


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "jobset.yaml").read_text())


def test_the_jobset_has_the_fields_that_jobset_requires(jobset: dict[str, Any]) -> None:
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    for container in pod["containers"]:
        assert {"name", "image"} <= set(container)
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_jobset_starts_as_many_processes_as_it_tells_them(jobset: dict[str, Any]) -> None:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (command,) = container["args"]
    count = int(re.findall(r"--process_count=(\d+)", command)[0])
    assert job["parallelism"] == job["completions"] == count
    # Names of pods: JobSet, replicated job, its index, index of the pod; the service is called like the JobSet.
    name = jobset["metadata"]["name"]
    assert f"--coordinator={name}-{replicated['name']}-0-0.{name}:" in command
    port = int(re.findall(r"--coordinator=\S+:(\d+)", command)[0])
    assert {"containerPort": port} in container["ports"]
    grace = job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(re.findall(r"--stop_timeout=(\d+)", command)[0]) < grace


def test_the_image_installs_extras_that_exist() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) ", text, re.MULTILINE)
    assert set(instructions) <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT"}
    project = (ROOT / "pyproject.toml").read_text()
    for extra in ("cuda12", "tpu", "k8s"):
        assert extra in text
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
