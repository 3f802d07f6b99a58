"""Run directories of earlier versions: they load, predict, are measured, and go on; see earlier_versions/README.md."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import finetune_jax
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.runs import evaluate, finetune

EARLIER = Path(__file__).parent / "earlier_versions"
ENDED = EARLIER / "autolr_finished"


@pytest.fixture(scope="module")
def expected():
    return json.loads((EARLIER / "autolr_expected.json").read_text())


@pytest.fixture
def one():
    return Replicas((jax.devices()[0],))


def config_of(run, workdir):
    flags = json.loads((run / "flags.json").read_text())
    names = {field.name for field in dataclasses.fields(FinetuneConfig)}
    settings = {name: value for name, value in flags.items() if name in names}
    lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    return FinetuneConfig(**{**settings, **lists, "workdir": str(workdir)})


def test_a_run_that_had_ended_predicts_as_it_did(expected):
    images = np.arange(3 * 20 * 24 * 3, dtype=np.int64).reshape(3, 20, 24, 3) ** 2 % 251
    predictor = finetune_jax.load(ENDED)
    np.testing.assert_allclose(predictor(images.astype(np.uint8)), expected["probabilities"], rtol=1e-5)
    assert predictor.class_names == tuple("0123456789")


# Of nearly equal neighbours, rounding decides which is nearer.
@pytest.mark.parametrize(
    ("protocol", "split", "rounding"), [("classification", "test", 1e-5), ("retrieval", "validation", 0.02)]
)
def test_a_run_that_had_ended_is_measured_as_it_was(protocol, split, rounding, expected, one):
    result = evaluate.measure(ENDED, data_config_of(ENDED), one, split=split, protocol=protocol)
    # Scores that came later stand beside those of then.
    scores = {name: result["scores"][name] for name in expected[protocol]}
    assert scores == pytest.approx(expected[protocol], rel=rounding)


def test_a_run_that_had_ended_is_not_trained_again(one, tmp_path):
    run = shutil.copytree(ENDED, tmp_path / "run")
    summary = finetune.run(config_of(run, run), one)
    assert summary == json.loads((ENDED / "summary.json").read_text())
    assert not (run / "report.html").exists()


def test_trials_that_were_recorded_are_read(one, tmp_path):
    # As after a kill in the second trial: AutoLR goes on from the record of the first one, which it rejected.
    run = shutil.copytree(ENDED, tmp_path / "run")
    rows = RunDirectory(ENDED).read_passes()
    (run / "summary.json").unlink()
    for folder in ("checkpoints", "trials/1", "trials/2"):
        shutil.rmtree(run / folder)
    summary = finetune.run(config_of(run, run), one)
    again = RunDirectory(run).read_passes()
    assert [row["accepted"] for row in again][:2] == ["0", "1"]
    assert again[0] == rows[0], "the record of the rejected trial was not used"
    for name, cell in rows[1].items():
        assert (again[1][name] == "") == (cell == ""), name
        assert float(again[1][name] or 0) == pytest.approx(float(cell or 0), rel=1e-3), name
    assert summary["epochs_trained"] == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_end(one, tmp_path):
    run = shutil.copytree(EARLIER / "standard_stopped", tmp_path / "run")
    finetune.run(config_of(run, run), one)
    with (EARLIER / "standard_metrics.csv").open() as file:
        expected_rows = list(csv.DictReader(file))
    rows = RunDirectory(run).read_metrics()
    assert [list(row) for row in rows] == [list(row) for row in expected_rows]
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for name in set(row) - {"seconds"}:
            # Other numbers of threads and other levels of XLA's optimisation round otherwise.
            assert float(row[name]) == pytest.approx(float(expected_row[name]), rel=1e-4), name
    assert {"summary.json", "report.html"} <= {path.name for path in run.iterdir()}
