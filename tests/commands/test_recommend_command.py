"""The command ``recommend``: on photos, stopped by its budget and gone on with."""

import html
import json
import os
import subprocess
from pathlib import Path

import fork_server
import pytest
from child_processes import SECONDS
from photos import write_photos
from weights import write_weights

ROOT = Path(__file__).parents[2]


def recommend(*words: str) -> subprocess.CompletedProcess[str]:
    # Eight devices are more than the batches of this test need.
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return fork_server.run(
        "experiments.recommend",
        *words,
        environment={**os.environ, "XLA_FLAGS": flags},
        cwd=ROOT,
        timeout=SECONDS,
    )


def test_a_budget_of_nothing_asks_the_probes_and_a_larger_one_goes_on_from_there(tmp_path: Path) -> None:
    write_weights(tmp_path / "tiny.npz")
    flags = (
        f"--dataset=folder:{write_photos(tmp_path / 'photos', per_class=12)}",
        *(f"--cache_dir={tmp_path / 'cache'}", f"--workdir={tmp_path / 'study'}"),
        *(f"--origins={tmp_path / 'tiny.npz'}", "--network=resnet26_policy", "--width=0.125"),
        *("--image_size=16", "--batch_size=8", "--epochs=2", "--methods=feature_extractor,last_k"),
        "--images_per_class=2,5",
    )
    first = recommend(*flags, "--budget=0.001s")
    assert first.returncode == 0, first.stderr
    assert "too small to train anything" in first.stdout
    assert "--method=feature_extractor" in first.stdout
    study = tmp_path / "study"
    probes = json.loads((study / "record.json").read_text())["probes"]
    assert not (study / "runs").exists()

    second = recommend(*flags, "--budget=1h")
    assert second.returncode == 0, second.stderr
    result = json.loads((study / "results.json").read_text())
    assert result["probes"] == probes
    trials = {trial["name"]: trial for trial in result["rungs"][0]["trials"]}
    assert list(trials) == ["feature_extractor", "last_k"]
    for name, trial in trials.items():
        summary = json.loads((study / "runs" / trial["run"] / "summary.json").read_text())
        right = result["measured"][name]["right"]
        # What is measured here of the best checkpoint is what the run has measured.
        assert right.count("1") / len(right) == pytest.approx(summary["validation_accuracy"])
        assert len(right) == summary["images"]["validation"]
    command = next(line for line in second.stdout.splitlines() if "experiments.finetune" in line)
    assert f"--method={result['recommended']}" in command
    assert "--epochs=2" in command
    assert (study / "learning_curve.png").exists()
    assert command in html.unescape((study / "report.html").read_text())


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--budget=abc", "--budget=abc is no time above 0"),
        ("--methods=nope", "--methods=nope is no method"),
        ("--images_per_class=0,5", "give numbers of at least 1"),
    ],
)
def test_a_slip_in_a_flag_is_one_sentence(flag: str, message: str) -> None:
    result = recommend("--dataset=digits", flag)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
