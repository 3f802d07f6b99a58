"""What a run says in its lines of progress."""

from pathlib import Path
from typing import Any

import pytest
from made_up_training import fit

from finetune_jax.devices.replicas import Replicas
from finetune_jax.training import loop
from finetune_jax.training.rows import shown, trial_line
from finetune_jax.training.tuning import Verdict


def test_shares_are_percent_and_other_scores_are_in_their_units():
    row = {"train_loss": 1.5, "train_accuracy": 0.0625, "validation_loss": 2.0, "validation_accuracy": 1.0}
    assert shown(row) == "train loss 1.5000 accuracy 6.25 %  validation loss 2.0000 accuracy 100.00 %"
    row = {"validation_loss": 2.0, "validation_quadratic_kappa": 0.5, "validation_mae": 3.25}
    assert shown(row) == "validation loss 2.0000 quadratic kappa 0.5000 MAE 3.2500"
    assert (
        shown({"validation_recall_at_1": 0.5, "validation_map_at_r": None}) == "validation Recall@1 50.00 %"
    )


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict(False, 1, 0.111, 0.94, {"block_01": 1.0}, ""), "1 rejected: lower blocks still move more"),
        (Verdict(True, 2, 0.9399996, 0.94, {}, ""), "2 accepted: higher blocks move more"),
        (Verdict(True, 5, 0.5, 0.94, {}, "the last"), "5 accepted: lower blocks still move more"),
    ],
)
def test_a_trial_says_what_its_quality_means_in_less_than_a_hundred_columns(verdict, said):
    line = trial_line(0, 50, verdict)
    assert line.startswith(f"epoch 1/50  trial {said} (sorting quality {verdict.quality:.3f}, wanted 0.940)")
    assert len(line) < 100 + len(verdict.remark)
    assert line.endswith(verdict.remark)


def test_a_trial_that_diverged_has_no_quality_to_tell():
    verdict = Verdict(False, 1, float("nan"), 0.94, {}, "diverged; all rates divided by 10")
    assert trial_line(2, 9, verdict) == "epoch 3/9  trial 1 rejected: diverged; all rates divided by 10"


def test_the_time_of_compiling_has_a_line_of_its_own(tmp_path: Path, monkeypatch, capsys):
    laps = iter([0.0, 5.0, 0.0, 0.02, 0.0, 0.0])  # at the start and at the end of each epoch
    monkeypatch.setattr(loop.CompileClock, "lap", lambda clock: next(laps))
    fit(tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling took 5.0 s"
    assert [line.split()[1] for line in lines[1:]] == ["1/3", "2/3", "3/3"]
    assert lines[1].endswith("  0.0 s")


def test_processes_that_compile_for_other_times_meet_equally_often(tmp_path: Path, monkeypatch) -> None:
    # They meet where files are written. Where one has a line more than another, they must not wait for each other.
    meetings = []
    plainly = Replicas.fail_together

    def counted(replicas: Replicas) -> Any:
        meetings.append(1)
        return plainly(replicas)

    monkeypatch.setattr(Replicas, "fail_together", counted)
    counts = []
    for seconds in (0.0, 5.0):
        meetings.clear()
        monkeypatch.setattr(loop.CompileClock, "lap", lambda clock, seconds=seconds: seconds)
        fit(tmp_path / str(seconds))
        counts.append(len(meetings))
    assert counts[0] == counts[1] > 0
