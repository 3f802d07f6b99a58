"""The table of methods, and what a new method needs: one class and one line of the table."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import finetune_jax
from finetune_jax.config.choices import METHODS as NAMES
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.reports.study_report import Picture
from finetune_jax.runs import finetune
from finetune_jax.training.methods.method import Findings
from finetune_jax.training.methods.plain import FeatureExtractor
from finetune_jax.training.methods.registry import METHODS
from finetune_jax.training.tuning import FixedRates


def test_the_table_has_the_names_that_the_flag_takes():
    assert list(METHODS) == list(NAMES)


@dataclasses.dataclass(frozen=True)
class Halfway(FeatureExtractor):
    """A made-up method: trains the head, and takes weights halfway between its start and its end."""

    makes_compact = True

    @classmethod
    def create(cls, config, base):
        method = super().create(config, base)
        plain = method.forward

        def forward(params, frozen, batch_stats, images, keys):
            prediction = plain(params, frozen, batch_stats, images, keys)
            return prediction._replace(totals={"made_up/images": np.float32(2 * len(images))})

        return dataclasses.replace(method, forward=forward, totals=("made_up/images",))

    def tuner(self, config, trained):
        return FixedRates((), lambda epoch: dict.fromkeys(trained, 0.5))

    def result(self, variables, totals):
        start, end = self.variables["params"]["head"], variables["params"]["head"]
        head = jax.tree.map(lambda a, b: (a + b) / 2, start, end)
        return {**variables, "params": {**variables["params"], "head": head}}

    def examine(self, run):
        width = run.test_outputs(
            run.compile(lambda variables, images: images.mean((1, 2))), run.variables
        ).shape
        return Findings(
            {"made_up": list(width), "twice": run.totals["made_up/images"]},
            notes=["this method is made up"],
            files={"made_up.csv": "a,b\n1,2\n"},
            draw=lambda: [Picture("made_up", "A made-up figure", Figure())],
        )


def test_a_new_method_is_a_class_and_a_line_of_the_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(METHODS, "halfway", Halfway)
    monkeypatch.setattr(
        finetune, "validate", lambda config: None
    )  # the names that the flag takes are config's
    config = FinetuneConfig(
        method="halfway",
        pretrained="none",
        network="resnet26",
        width=0.1,
        prune_depth=10,
        image_size=16,
        test_fraction=0.5,
        epochs=2,
        workdir=str(tmp_path),
    )
    one = Replicas((jax.devices()[0],))
    summary = finetune.run(config, one)

    # What it trains, with its tuner and its forward pass.
    assert summary["trained_parts"] == ["head"]
    directory = RunDirectory(tmp_path)
    assert [float(row["rate/head"]) for row in directory.read_passes()] == [0.5, 0.5]
    assert [float(row["train_made_up/images"]) for row in directory.read_metrics()] == [2.0, 2.0]

    # What it makes of the weights that were trained: evaluation and prediction see nothing else.
    best = checkpoints.best_step(directory.checkpoints)
    card, variables = read_best(tmp_path)
    trained = checkpoints.restore_variables(directory.checkpoints, best, card.saved_shapes())
    start = finetune.prepare(config, one)[0].variables["params"]["head"]
    end = trained["params"]["head"]
    assert np.abs(end["classifier"]["kernel"] - start["classifier"]["kernel"]).max() > 1e-3
    for kind in ("kernel", "bias"):
        halfway = (start["classifier"][kind] + end["classifier"][kind]) / 2
        np.testing.assert_allclose(variables["params"]["head"]["classifier"][kind], halfway, atol=1e-6)
    images = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(
        finetune_jax.load(tmp_path, calibrated=False)(images),
        jax.nn.softmax(card.model().apply(variables, normalised(images, card))),
        rtol=1e-4,
    )

    # What it adds to summary and report.
    assert summary["made_up"] == [summary["images"]["test"], 3]
    assert summary["twice"] == 2.0
    assert "this method is made up" in summary["notes"]
    assert "warning: this method is made up" in capsys.readouterr().err
    assert (tmp_path / "made_up.csv").read_text() == "a,b\n1,2\n"
    assert "A made-up figure" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "made_up.png").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def normalised(images, card):
    scaled = (images / 255 - np.array(card.mean)) / np.array(card.std)
    return scaled.astype(np.float32)


def test_what_a_method_does_not_say_is_that_of_standard_fine_tuning(tmp_path):
    method = METHODS["standard"](None, "model", {"params": {}}, (), None)
    assert method.measured == "model"
    assert method.result("variables", {}) == "variables"
    assert (method.composition, method.rules(FinetuneConfig()), method.peak_rates(FinetuneConfig())) == (
        {},
        {},
        {},
    )
    assert not method.makes_compact
    assert method.examine(None) == Findings()
    assert [name for name, kind in METHODS.items() if not kind.from_pretrained] == ["scratch"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.model = "another"
