"""Runs that get more epochs than they began with: the same run as one that was told so at its start."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from small_runs import small_run

from finetune_jax.config import recorded
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import finetune, prolong

SHORT, LONG = 2, 5


@pytest.fixture(scope="module")
def one() -> Replicas:
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    home = tmp_path_factory.mktemp("prolong")
    return small_run(home, epochs=SHORT, count=20, warmup_epochs=0.5, schedule_by="step")


@pytest.fixture(scope="module")
def finished(base: FinetuneConfig, one: Replicas, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    config = dataclasses.replace(base, workdir=str(tmp_path_factory.mktemp("finished") / "run"))
    finetune.run(config, one)
    return config


def moved(config: FinetuneConfig, to: Path) -> FinetuneConfig:
    shutil.copytree(config.workdir, to)
    return dataclasses.replace(config, workdir=str(to))


def rows_of(workdir: str) -> list[dict[str, str]]:
    return [
        {name: cell for name, cell in row.items() if name != "seconds"}
        for row in RunDirectory(Path(workdir)).read_metrics()
    ]


def arrays_of(workdir: str) -> dict[str, bytes]:
    folder = Path(workdir) / "checkpoints"
    step = max(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    arrays = {}
    with ocp.StandardCheckpointer() as reader:
        for item in ("variables", "training"):
            tree = reader.restore(folder / str(step) / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                arrays[f"{step} {item} {jax.tree_util.keystr(path)}"] = np.asarray(leaf).tobytes()
    assert len(arrays) > 50
    return arrays


def test_a_prolonged_run_is_the_one_that_was_told_so_at_its_start(
    base: FinetuneConfig, finished: FinetuneConfig, one: Replicas, tmp_path: Path
) -> None:
    told = dataclasses.replace(base, epochs=LONG, restart_epochs=(SHORT,), workdir=str(tmp_path / "told"))
    expected = finetune.run(told, one)
    before = moved(finished, tmp_path / "run")
    after = prolong.prolonged(before, LONG)
    prolong.record(before, after)
    assert not (tmp_path / "run" / "summary.json").exists()
    summary = finetune.run(after, one)
    assert rows_of(after.workdir) == rows_of(told.workdir)
    assert arrays_of(after.workdir) == arrays_of(told.workdir)
    assert {name: value for name, value in summary.items() if "seconds" not in name} == {
        name: value for name, value in expected.items() if "seconds" not in name
    }
    flags = json.loads((tmp_path / "run" / "flags.json").read_text())
    assert flags == json.loads((tmp_path / "told" / "flags.json").read_text())
    # What is recorded is what goes on, and what it was stays to be looked at.
    again = recorded.config_of(flags, FinetuneConfig)
    assert dataclasses.replace(again, workdir=after.workdir, cache_dir=after.cache_dir) == after
    twice = prolong.prolonged(after, 9)
    assert (twice.epochs, twice.restart_epochs) == (9, (SHORT, LONG))
    kept = (tmp_path / "run" / f"summary-{SHORT}.json").read_bytes()
    assert kept == (Path(finished.workdir) / "summary.json").read_bytes()
    assert "prolonged from 2 to 5 epochs" in (tmp_path / "run" / "run.log").read_text()


def test_runs_of_a_study_say_once_what_is_the_same_of_them(
    base: FinetuneConfig, one: Replicas, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: set[str] = set()
    told = []
    for seed in (0, 1):
        config = dataclasses.replace(base, epochs=1, seed=seed, workdir=str(tmp_path / str(seed)))
        finetune.run(config, one, printed_lines=said)
        told.append(capsys.readouterr().err.splitlines())
    first, second = told
    assert any(line.startswith("resnet26_policy (") for line in first)
    assert any(line.startswith("remark: ") for line in first)
    assert any("kept in" in line for line in second)  # which is another one
    same = {
        line for line in first if line.startswith(("resnet26_policy (", "task:", "learning rate", "remark:"))
    }
    assert not same & set(second)
    log = (tmp_path / "1" / "run.log").read_text()
    assert "resnet26_policy (" in log  # each directory tells all of its run


def test_added_epochs_have_the_rates_of_a_training_of_their_own(
    base: FinetuneConfig, finished: FinetuneConfig, one: Replicas, tmp_path: Path
) -> None:
    alone = dataclasses.replace(base, epochs=LONG - SHORT, workdir=str(tmp_path / "alone"))
    finetune.run(alone, one)
    before = moved(finished, tmp_path / "run")
    after = prolong.prolonged(before, LONG)
    prolong.record(before, after)
    finetune.run(after, one)
    rates = [float(row["learning_rate"]) for row in rows_of(after.workdir)]
    assert rates[:SHORT] == [float(row["learning_rate"]) for row in rows_of(finished.workdir)]
    assert rates[SHORT:] == [float(row["learning_rate"]) for row in rows_of(alone.workdir)]
    losses = [float(row["train_loss"]) for row in rows_of(after.workdir)]
    assert losses[SHORT] < float(rows_of(alone.workdir)[0]["train_loss"])  # it starts from what was learned


def test_a_constant_rate_has_nothing_to_begin_again(finished: FinetuneConfig) -> None:
    constant = dataclasses.replace(finished, schedule="constant", schedule_by="epoch", warmup_epochs=0.0)
    assert prolong.prolonged(constant, LONG) == dataclasses.replace(constant, epochs=LONG)
    assert prolong.prolonged(finished, SHORT) == finished


def test_what_cannot_be_prolonged_is_refused_by_its_reason_and_left_as_it_is(
    finished: FinetuneConfig, tmp_path: Path
) -> None:
    def refused(config: FinetuneConfig, reason: str, epochs: int = LONG) -> None:
        files = sorted(Path(config.workdir).rglob("*"))
        with pytest.raises(UserError, match=reason):
            prolong.prolonged(config, epochs)
        assert sorted(Path(config.workdir).rglob("*")) == files

    refused(finished, r"--epochs=1 is fewer than the 2 of ", epochs=1)
    refused(
        dataclasses.replace(finished, swa_epochs=1), "--swa_epochs=1 has averaged .* --keep_head --epochs=3"
    )
    refused(
        dataclasses.replace(finished, epochs=4, early_stopping=1),
        "--early_stopping=1 has ended it after epoch 2",
    )
    freed = moved(finished, tmp_path / "freed")
    for folder in Path(freed.workdir).glob("checkpoints/[0-9]*/training"):
        shutil.rmtree(folder)
    refused(freed, "runs --free has given back the state of its optimiser")
    of_study = moved(finished, tmp_path / "sweep" / "runs" / "one")
    for name in ("report.html", "results.md", "results.txt"):
        (tmp_path / "sweep" / name).write_text("")
    refused(of_study, r"belongs to the study .*sweep, which compares")
