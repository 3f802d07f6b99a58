"""The report of a real run: rewritten while it trains, with its photos and its command when it has ended."""

import csv
import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from photos import write_photos
from PIL import Image

from finetune_jax.config.named_recipes import starting_config
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.runs import finetune, report

DRAWS_FIGURES = True


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    return FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        workdir=str(root / "run"),
        image_size=16,
        batch_size=12,
        epochs=2,
        method="feature_extractor",
        prune_depth=8,
    )


@pytest.fixture(scope="module")
def pages(config):
    """``report.html`` after each epoch and at the end, and the directory, of a run of two epochs."""
    seen = []
    directory = Path(config.workdir)
    page = directory / "report.html"
    finetune.run(config, Replicas((jax.devices()[0],)), lambda row: seen.append(page.read_text()))
    return [*seen, page.read_text()], directory


def test_the_first_epoch_has_a_page_that_refreshes_itself_and_the_last_one_does_not(pages):
    (first, _, last), _ = pages
    assert '<meta http-equiv="refresh"' in first
    assert "Epoch 1 of 2 is done" in first
    assert "Training images after augmentation" in first
    assert "Recall per class" not in first
    assert "refresh" not in last.split("<style>")[0]
    assert "Test accuracy" in last


def test_without_a_report_the_run_is_the_same_and_its_tables_are_there(pages, config, tmp_path):
    bare = dataclasses.replace(config, report=False, workdir=str(tmp_path / "bare"))
    epochs = []
    finetune.run(bare, Replicas((jax.devices()[0],)), lambda row: epochs.append(row["epoch"]))
    assert epochs == [1, 2]
    with_page, without = ({path.name for path in place.iterdir()} for place in (pages[1], tmp_path / "bare"))
    assert with_page - without == {"report.html", "training.png", "confusion.png"}
    assert without < with_page
    for name in ("metrics.csv", "classes.csv", "predictions-test.csv"):
        assert _without_seconds(tmp_path / "bare" / name) == _without_seconds(pages[1] / name)


def _without_seconds(path):
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in csv.DictReader(path.open())
    ]


def test_figures_lie_beside_the_page(pages):
    for name in ("training", "confusion"):
        with Image.open(pages[1] / f"{name}.png") as picture:
            assert picture.width > 200


def test_what_was_seen_and_the_command_are_those_of_the_run(pages):
    (*_, last), directory = pages
    assert "16 × 16, the whole image stretched" in last
    assert "resnet26" in last
    command = re.search("<pre>(.*?)</pre>", last).group(1)
    assert command.startswith("finetune-jax finetune ")
    assert f"--workdir={directory}" in command
    assert "--method=feature_extractor" in command
    assert "--momentum" not in command
    assert f"jax {jax.__version__}" in last


def test_notable_photos_are_shown_as_they_were_read_with_their_names(pages):
    (*_, last), directory = pages
    names = re.findall(r'class="file" title="([^"]*)"', last)
    assert names
    assert all(name.startswith(str(directory.parent / "photos")) for name in names)


def test_the_command_holds_what_differs_from_the_recipe_of_the_method():
    flags = dataclasses.replace(
        recipe("autolr"), dataset="folder:my photos", ks=(1, 5), balanced_sampling=True, learning_rate=0.5
    )
    words = report.command_of(flags)
    assert "'--dataset=folder:my photos'" in words
    assert "--method=autolr" in words
    assert "--ks=1,5" in words
    assert "--balanced_sampling" in words
    assert "--learning_rate=0.5" in words
    assert "--alpha" not in words  # as the recipe has it
    assert report.command_of(starting_config()) == "finetune-jax finetune --optimizer=adamw"
    adamw = dataclasses.replace(recipe("standard"), optimizer="adamw")
    assert report.command_of(adamw) == "finetune-jax finetune --optimizer=adamw --learning_rate=0.01"


def test_pages_do_not_take_more_than_a_share_of_the_time(monkeypatch):
    clock = [0.0]
    written = []
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])

    def files(result):
        written.append(clock[0])
        clock[0] += 0.5  # what a page takes
        return {}

    monkeypatch.setattr(report.run_page, "files", files)
    monkeypatch.setattr(report, "begin", lambda program, settings: report.RunResult({}, "accuracy", [], []))

    class Primary:
        class replicas:
            is_primary = True

    class Flags:
        class flags:
            report = True

    class Directory:
        def read_metrics(self):
            return []

        read_passes = read_metrics

    rows = []
    callback = report.after_each_epoch(Primary(), Flags(), Directory(), rows.append)
    for epoch in range(40):
        clock[0] += 1.0
        callback({"epoch": epoch})
    assert len(rows) == 40
    assert written[0] == 1.0
    assert np.diff(written).min() >= 10  # half a second is a twentieth of ten
