"""``resume`` of a directory that holds no sound flags."""

from pathlib import Path

import fork_server
import pytest
from child_processes import SECONDS

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
    result = fork_server.run("experiments.resume", run, cwd=ROOT, timeout=SECONDS)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
