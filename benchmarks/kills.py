"""Kills runs again and again, and compares how they end with runs that nobody disturbed.

    python -m benchmarks.kills --kills=200 --seed=0

A standard, an AutoLR and a SpotTune run and a sweep are started, killed with SIGKILL and started again, until each
workdir has had a few kills; then they run to their end. Kills come at random moments, and at moments that are
watched for: while a checkpoint is written, while one is deleted, and while the results are written. At the end every
number that a run leaves behind (metrics, passes, summary, digests of the weights) must be bit-identical to those of
the undisturbed run; only clock times may differ.

Prints a line for each end, and the counts. The exit status is 1 where an end differs or a start was refused.

Each start is a fork of a process that has imported everything and not yet started JAX, so that most of the time goes
into the runs. Compiled programs are kept in a folder of the benchmark. What a run imports later comes from the source
as it is then, so that the benchmark ends where the source changes.
"""

import argparse
import collections
import csv
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMALL = [
    "--dataset=digits",
    "--network=resnet26_policy",
    "--width=0.125",
    "--image_size=8",
    "--batch_size=128",
    "--epochs=4",
    "--pretrained=none",
    "--decode_workers=1",
]
START = ["--dataset=digits", "--image_size=8", "--batch_size=128", "--width=0.125", "--decode_workers=1"]
EVERY_START = (
    "finetune_jax.runs.finetune",
    "finetune_jax.studies.sweeps.trial_queue",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "scipy.optimize",
    "sklearn.datasets",
    "tensorboardX",
)
KILLS_PER_RUN = 4
# What is there in the moments that are watched for: a part of a name below the workdir.
WATCHED = {"in a write": ".orbax-checkpoint-tmp", "in a deletion": ".deleted-", "in the report": ".png"}
_LIMIT = 600.0  # seconds of one start; only against hanging
# What differs from run to run, whatever happens: clock times, where it was, and how often a trial was taken.
_CLOCK = ("seconds", "images_per_second", "workdir", "path", "place", "started", "date", "time", "wall")


class Case:
    """A command, what it leaves behind, and how long its start and end take.

    Attributes:
        name: of the case.
        command: of ``finetune-jax``.
        flags: of it.
    """

    def __init__(self, name: str, command: str, *flags: str) -> None:
        self.name, self.command, self.flags = name, command, flags


def cases(weights: Path) -> list[Case]:
    """The four cases; ``weights`` is a file that those start from that need pretrained weights."""
    pretrained = (*START, f"--pretrained={weights}", "--epochs=3")
    return [
        Case("standard", "finetune", *SMALL, "--method=scratch", "--checkpoint_steps=3"),
        Case("autolr", "finetune", *pretrained, "--method=autolr", "--max_trials=3"),
        Case("spottune", "finetune", *pretrained, "--method=spottune", "--checkpoint_steps=3"),
        Case(
            "sweep",
            "hpo",
            *(flag for flag in SMALL if not flag.startswith("--epochs")),
            *(
                "--epochs=2",
                "--method=scratch",
                "--learning_rates=0.05,0.01",
                "--momenta=0.9",
                "--weight_decays=0",
            ),
        ),
    ]


def start(case: Case, workdir: Path, log: Path, cache: Path) -> int:
    """Start a command in a forked process; its number."""
    process = os.fork()
    if process:
        return process
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        flags = [*case.flags, f"--workdir={workdir}", f"--cache_dir={cache / 'images'}"]
        sys.argv = ["finetune-jax", *flags, f"--compilation_cache={cache / 'xla'}"]
        from finetune_jax.commands import program

        program.run(case.command)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    finally:
        os._exit(70)
    return 0


def ended(process: int) -> int | None:
    """Exit status of a process, None while it runs; minus the signal where it was killed."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def names_below(directory: Path) -> Iterator[str]:
    """Names of files and folders below a directory in which another process makes and deletes some."""
    for _, folders, files in os.walk(directory):  # which passes over what is gone by now
        yield from folders
        yield from files


def moment(kind: str, workdir: Path, longest: float, chance: random.Random) -> Callable[[float], bool]:
    """Whether to kill now, asked again and again with the seconds since the start."""
    delay = chance.uniform(0.0, 0.02)
    at = chance.uniform(0.0, longest)
    seen: list[float] = []

    def watched(seconds: float) -> bool:
        if not seen and any(WATCHED[kind] in name for name in names_below(workdir)):
            seen.append(seconds)
        return bool(seen) and seconds - seen[0] >= delay

    if kind in WATCHED:
        return lambda seconds: watched(seconds) or seconds > 2 * longest + at
    return lambda seconds: seconds >= at


def kill_at(process: int, now: Callable[[float], bool]) -> int | None:
    """Kill a process at a moment; None where it was killed, its status where it ended before."""
    began = time.monotonic()
    while True:
        status = ended(process)
        if status is not None:
            return status
        seconds = time.monotonic() - began
        if now(seconds) or seconds > _LIMIT:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.001)


def outcome(workdir: Path) -> dict[str, Any]:
    """All numbers that runs below a directory left behind, but for clock times."""
    contents: dict[str, Any] = {}
    for file in sorted(workdir.rglob("*.csv")):
        with file.open(newline="") as lines:
            contents[str(file.relative_to(workdir))] = _without_clock(list(csv.DictReader(lines)))
    for file in sorted(workdir.rglob("*.json")):
        contents[str(file.relative_to(workdir))] = _without_clock(json.loads(file.read_text()))
    for file in sorted(workdir.rglob("meta/metadata")):
        contents[str(file.relative_to(workdir))] = _without_clock(json.loads(file.read_text()))
    return contents


def _is_clock(name: str) -> bool:
    return any(word in name for word in _CLOCK)


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: _without_clock(v)
            for k, v in value.items()
            if not _is_clock(k) and k not in ("number", "digest")
        }
    return [_without_clock(item) for item in value] if isinstance(value, list) else value


def differing(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Names of the files that differ."""
    return sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))


def first_difference(one: Any, other: Any) -> str:
    """Where two outcomes differ first, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return f"{key}: {first_difference(one.get(key), other.get(key))}"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return f"{number}: {first_difference(a, b)}"
    return f"{one!r} against {other!r}"


def write_weights(file: Path) -> None:
    """Random weights to start from, written in a process of its own, since this one must not start JAX."""
    process = os.fork()
    if not process:
        import jax
        import jax.numpy as jnp

        from finetune_jax import models
        from finetune_jax.files.weight_files import read_write

        network = models.create("resnet26_policy", num_classes=7, width=0.125)
        variables = network.init(jax.random.key(5), jnp.zeros((1, 8, 8, 3)))
        read_write.write(file, models.to_torch_state(network, variables))
        os._exit(0)
    os.waitpid(process, 0)


def source_digest() -> str:
    """Of all files of the package."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "finetune_jax").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def refuse_other_source(digest: str) -> None:
    """Ends the benchmark where the package is not what it was at the start."""
    if source_digest() != digest:
        raise SystemExit("the source of the package has changed meanwhile; start again")


def measure(kills: int, seed: int, names: list[str], root: Path) -> collections.Counter[str]:
    """Kill that many times, spread over the cases; the counts."""
    source = source_digest()
    chance = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    chosen = [case for case in cases(root / "weights.npz") if case.name in names]
    if any(f"--pretrained={root / 'weights.npz'}" in case.flags for case in chosen):
        write_weights(root / "weights.npz")
    expected, longest = {}, {}
    for case in chosen:
        for turn in ("first", "second"):  # the second finds compiled programs, as all later ones do
            began = time.monotonic()
            ended = kill_at(
                start(case, root / f"{case.name}-{turn}", root / "log", root), lambda seconds: False
            )
            if ended:
                raise SystemExit(
                    f"{case.name} ends with {ended} undisturbed: {(root / 'log').read_text()[-2000:]}"
                )
            longest[case.name] = time.monotonic() - began
        expected[case.name] = outcome(root / f"{case.name}-first")
        again = outcome(root / f"{case.name}-second")
        refuse_other_source(source)
        if names := differing(expected[case.name], again):
            shown = first_difference(expected[case.name].get(names[0]), again.get(names[0]))
            raise SystemExit(f"{case.name} is not repeatable: {names}; of {names[0]} {shown}")
        print(f"{case.name}: {longest[case.name]:.1f} s undisturbed", flush=True)
    kinds = ["at random", "in a write", "at random", "in a deletion", "in the report"]
    for number in range(sys.maxsize):
        if counts["kills"] >= kills:
            break
        case = chosen[number % len(chosen)]
        workdir, log = root / f"{number}", root / f"{number}.log"
        status: int | None = None
        hits: list[str] = []
        while status is None:
            last = len(hits) >= KILLS_PER_RUN or counts["kills"] >= kills
            kind = chance.choice(kinds)
            now = (lambda seconds: False) if last else moment(kind, workdir, longest[case.name], chance)
            status = kill_at(start(case, workdir, log, root), now)
            if status is None:
                hits.append(kind)
                counts["kills"] += 1
                counts[f"kills {kind}"] += 1
        refuse_other_source(source)
        names_differing = differing(expected[case.name], outcome(workdir)) if status == 0 else []
        verdict = "refused" if status else "different" if names_differing else "identical"
        counts[verdict] += 1
        counts["ends"] += 1
        print(
            f"{case.name}: {len(hits)} kills ({', '.join(hits)}): {verdict} {names_differing or ''}",
            flush=True,
        )
        if verdict == "refused":
            print(log.read_text()[-1500:], flush=True)
    return counts


def main() -> int:
    """Run and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default="standard,autolr,spottune,sweep")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Everything that every start needs; it starts no backend and no threads.
    for name in EVERY_START:
        importlib.import_module(name)

    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        counts = measure(options.kills, options.seed, options.cases.split(","), Path(root))
    print(f"seed {options.seed}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return int(counts["identical"] != counts["ends"])


if __name__ == "__main__":
    sys.exit(main())
