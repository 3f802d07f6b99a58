"""``resume`` of a directory that holds no sound flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "content", [None, "", "[]", '"x"', '{"epochs": "many"}', '{"method": "nope"}', '{"ks": 3}']
)
def test_damaged_flags_are_one_sentence_and_nothing_is_written(content: str | None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "flags.json").write_text(content)
    before = sorted(tmp_path.rglob("*"))
    result = subprocess.run(
        [sys.executable, "-m", "experiments.resume", str(run)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
