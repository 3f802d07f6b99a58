"""What the processes of a job must have in common, compared before anything is compiled.

Processes with other code, flags or images pair their collectives by order alone: that gives wrong numbers, or none, and
no error.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jaxlib

from finetune_jax.devices import cluster
from finetune_jax.errors import UserError

_SHOWN_DIFFERENCES = 3
_ABSENT = "absent"


def agree(facts: Mapping[str, object], advice: str) -> None:
    """Compare with the other processes of the job, which call this too; nothing where there are none.

    Args:
        facts: ``{what: value}``; values are compared as text.
        advice: what to do about a difference.

    Raises:
        UserError: the processes differ, with the same sentence on all of them.
    """
    job = cluster.active()
    if job is None:
        return
    texts = job.gather(json.dumps({name: str(value) for name, value in facts.items()}))
    difference = difference_of([json.loads(text) for text in texts], job.peers.hosts)
    if difference:
        raise UserError(f"{difference}; {advice}")


def difference_of(facts: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> str:
    """In what the facts of several processes differ; empty where they do not.

    What most processes say is taken for right, and of two equally large groups what the first says.

    Args:
        facts: of each process.
        hosts: of each process.
    """
    names = list(dict.fromkeys(name for each in facts for name in each))
    differences = []
    for name in names:
        groups: dict[str, list[int]] = {}
        for index, each in enumerate(facts):
            groups.setdefault(each.get(name, _ABSENT), []).append(index)
        if len(groups) == 1:
            continue
        usual = max(groups, key=lambda value: len(groups[value]))
        others = ", ".join(
            f"{value} on {_processes(indices, hosts)}" for value, indices in groups.items() if value != usual
        )
        differences.append(f"{name} is {others} but {usual} on {_processes(groups[usual], hosts)}")
    if len(differences) > _SHOWN_DIFFERENCES:
        differences[_SHOWN_DIFFERENCES:] = [f"{len(differences) - _SHOWN_DIFFERENCES} more differences"]
    return "the processes of this job differ: " + "; ".join(differences) if differences else ""


def _processes(indices: Sequence[int], hosts: Sequence[str]) -> str:
    if len(indices) == 1:
        return f"process {indices[0]} (host {hosts[indices[0]]})"
    if len(indices) > 4:
        return f"{len(indices)} others"
    return f"processes {', '.join(map(str, indices))}"


def code() -> dict[str, str]:
    """Versions and digests of what computes."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)} ".encode())
        digest.update(content)
    return {
        "version of finetune_jax": _version(),
        "digest of finetune_jax's code": digest.hexdigest(),
        "version of jax": jax.__version__,
        "version of jaxlib": jaxlib.__version__,
    }


def _version() -> str:
    try:
        return importlib.metadata.version("finetune_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
