"""Short versions of the kill test and of the damage test, which are commands in ``benchmarks/``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from child_processes import FAST_COMPILATION

from benchmarks import damage, damage_target, damage_targets

ROOT = Path(__file__).parents[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", damage_targets.TARGETS, ids=lambda target: target.name)
def test_damaged_files_are_read_rightly_or_refused_in_a_sentence(target: damage_target.Target) -> None:
    # In this process memory is shared with other tests, so its limit is the reader's own business here.
    counts = damage.feed(target, range(12), seed=1, limits=(60.0, 8192.0))
    assert counts.total() == 12
    assert not counts["wrong"]


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    def raises(path: Path) -> bytes:
        if path.read_bytes() != b"intact and long enough":
            raise KeyError(path.name)
        return b""

    def write(path: Path) -> None:
        path.write_bytes(b"intact and long enough")

    for read, verdicts in (
        (raises, {"wrong"}),
        (lambda path: path.read_bytes(), {"wrong"}),
        (lambda path: "the same", {"same"}),
    ):
        target = damage_target.Target("file", write, read, accepts=lambda result: False)
        counts = damage.feed(target, range(20), seed=0, limits=(5.0, 4096.0))
        assert verdicts <= set(counts) <= {*verdicts, "same"}


@pytest.mark.slow
def test_runs_that_are_killed_end_like_undisturbed_ones() -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--kills=3", "--seed=3", "--cases=standard"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "XLA_FLAGS": FAST_COMPILATION},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout
