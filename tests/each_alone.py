"""Runs every test alone, in a process of its own, to find those that lean on others.

    python tests/each_alone.py                        # all tests, one process for each function
    python tests/each_alone.py tests/runs --every-case --processes 4
    python tests/each_alone.py --after alone.log     # what an earlier run, cut short, left

A process that has imported the libraries, but has not started JAX, is forked for each test; what was compiled is kept
in ``--cache`` for the next test that needs it. Ends with status 1 and the names of the tests that failed.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = (
    "absl.flags",
    "flax.linen",
    "hypothesis",
    "jax",
    "matplotlib.figure",
    "optax",
    "orbax.checkpoint",
    "pytest",
)


def tests_of(paths: list[str], every_case: bool) -> list[str]:
    """Names of the tests below ``paths``, those that differ in parameters alone once unless ``every_case``."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        sys.exit(listed.stdout + listed.stderr)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    return list(dict.fromkeys(names if every_case else (re.sub(r"\[.*", "", name) for name in names)))


def run(name: str) -> tuple[str, int, float, str]:
    """Run one test in this process; its name, pytest's exit status, seconds, and the report."""
    import pytest

    report = io.StringIO()
    start = time.monotonic()
    with contextlib.redirect_stdout(report), contextlib.redirect_stderr(report):
        status = pytest.main(["-q", "-p", "no:randomly", "-p", "no:cacheprovider", name])
    return name, int(status), time.monotonic() - start, report.getvalue()


def main() -> None:
    """Run the tests that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=["tests"], help="files, folders or tests")
    parser.add_argument(
        "--every-case", action="store_true", help="each case of a parametrised test by itself"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="tests at once")
    parser.add_argument("--cache", default=str(ROOT / ".xla_cache"), help="folder of compiled programs")
    parser.add_argument("--after", type=Path, help="output of an earlier run; what was ok is not run again")
    arguments = parser.parse_args()
    earlier = arguments.after.read_text() if arguments.after else ""
    os.chdir(ROOT)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = arguments.cache
    right = set(re.findall(r"^\d+/\d+ ok \S+ s (\S+)$", earlier, re.MULTILINE))
    names = [name for name in tests_of(arguments.paths, arguments.every_case) if name not in right]
    for module in HEAVY:
        importlib.import_module(module)
    failed = []
    with multiprocessing.get_context("fork").Pool(arguments.processes, maxtasksperchild=1) as pool:
        for done, (name, status, seconds, report) in enumerate(pool.imap_unordered(run, names), 1):
            print(
                f"{done}/{len(names)} {'ok' if status == 0 else 'FAILED'} {seconds:.1f} s {name}", flush=True
            )
            if status:
                failed.append(name)
                print(report, flush=True)
    print(f"{len(names)} tests alone, {len(failed)} failed", *failed, sep="\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
