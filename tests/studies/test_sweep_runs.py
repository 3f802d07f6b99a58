"""Sweeps of real runs: pruned, gone on with, trained together."""

import csv
import functools
import json

import jax
import pytest
from photos import write_photos

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Pruned
from finetune_jax.runs import finetune
from finetune_jax.studies.runs import Runs
from finetune_jax.studies.sweeps import sweep as hpo
from finetune_jax.studies.sweeps.search import Point, Search
from finetune_jax.studies.sweeps.trial_queue import TrialQueue


def test_a_real_run_that_was_pruned_goes_on_where_it_ended_and_the_best_is_a_run_directory(tmp_path):
    base = FinetuneConfig(
        dataset=f"folder:{write_photos(tmp_path / 'photos')}",
        cache_dir=str(tmp_path / "cache"),
        image_size=16,
        batch_size=12,
        epochs=2,
        method="feature_extractor",
        prune_depth=8,
    )
    runs = Runs(tmp_path / "study", Replicas((jax.devices()[0],)))
    train = hpo.one_by_one(runs)
    told = []

    def stop(row):
        told.append((int(row["epoch"]), float(row["validation_accuracy"])))
        if len(told) == 1:
            raise Pruned("worse")

    config = hpo.configured(base, Point(0.02, 0.9, 0.0), 0)
    (ended,) = train([hpo.Job(config, "0000-lr0.02-m0.9-wd0", stop)])
    assert isinstance(ended, Pruned)
    assert runs.summary("0000-lr0.02-m0.9-wd0") is None
    # The same point again, by a study: the first epoch is told from what was saved, the second trained.
    search = Search(learning_rates=(0.02,), momenta=(0.9,), weight_decays=(0.0,))
    queue = TrialQueue(str(tmp_path / "study.journal"), "sweep", search, hpo.settings(base, search, (0,)))
    records = hpo.run(base, search, (0,), queue, train)
    result = hpo.result(base, search, (0,), records, runs.summary)
    assert result["best"]["epochs"] == 2
    directory = runs.root / "runs" / result["best"]["run"]
    summary = json.loads((directory / "summary.json").read_text())
    assert result["best"]["test"] == [summary["test_accuracy"]]
    rows = list(csv.DictReader((directory / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["validation_accuracy"]) == told[0][1]
    assert (directory / "report.html").exists()
    # A worker that was killed after the end of a run, before it told the study: the next one tells all epochs.
    again = TrialQueue(str(tmp_path / "again.journal"), "sweep", search, hpo.settings(base, search, (0,)))
    (record,) = hpo.run(base, search, (0,), again, train)
    assert (record.state, record.steps, record.score) == ("complete", 2, result["best"]["score"])

    def worse(row):
        raise Pruned("worse")

    (kept,) = train([hpo.Job(config, "0000-lr0.02-m0.9-wd0", worse)])
    assert kept["test_accuracy"] == summary["test_accuracy"]


@pytest.mark.parametrize("vectorize", [False, True])
def test_trials_trained_together_end_as_they_do_alone_and_a_pruned_one_stops_no_other(
    tmp_path, monkeypatch, vectorize
):
    base = FinetuneConfig(
        dataset=f"folder:{write_photos(tmp_path / 'photos')}",
        cache_dir=str(tmp_path / "cache"),
        image_size=16,
        batch_size=12,
        epochs=2,
        method="feature_extractor",
        prune_depth=8,
    )
    monkeypatch.setattr(
        finetune, "train_in_lockstep", functools.partial(finetune.train_in_lockstep, vectorize=vectorize)
    )
    search = Search(learning_rates=(0.002, 0.02, 1e30), momenta=(0.9,), weight_decays=(0.0,))
    pruned = {}

    def second_is_pruned(jobs):
        def stop(row):
            pruned[int(row["epoch"])] = True
            raise Pruned("worse")

        return train([job._replace(after_epoch=stop) if job.name.startswith("0001") else job for job in jobs])

    runs = Runs(tmp_path / "together", Replicas((jax.devices()[0],)))
    train = hpo.together(runs)
    queue = TrialQueue(str(tmp_path / "a.journal"), "sweep", search, hpo.settings(base, search, (0,)))
    records = hpo.run(base, search, (0,), queue, second_is_pruned, at_once=3)
    assert [record.state for record in records] == ["complete", "pruned", "diverged"]
    assert pruned == {1: True}
    assert records[0].steps == 2
    if vectorize:
        return
    alone = Runs(tmp_path / "alone", Replicas((jax.devices()[0],)))
    (summary,) = hpo.one_by_one(alone)(
        [hpo.Job(hpo.configured(base, records[0].point, 0), "first", lambda row: None)]
    )
    assert summary["validation_accuracy"] == records[0].score
