"""The Visual Decathlon from TFDS data to the table and the server's file, on tiny data sets of the real kind."""

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import finetune_jax
from finetune_jax import models
from finetune_jax.algorithms import decathlon
from finetune_jax.config.checks import validate
from finetune_jax.config.choices import METHODS
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import decathlon_annotations, sources
from finetune_jax.data.decode import Preprocessing
from finetune_jax.data.prepare import preprocessing, shorter_side
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.weight_files import read_write
from finetune_jax.models import registry
from finetune_jax.models.card import read_best
from finetune_jax.models.compositions.routed import RoutedNetwork, policy_for
from finetune_jax.reports import decathlon as decathlon_report
from finetune_jax.reports import study_report
from finetune_jax.reports.published import spottune as published
from finetune_jax.runs import finetune
from finetune_jax.studies import decathlon as study
from finetune_jax.studies import reproduce
from finetune_jax.studies.runs import Runs

ROOT = Path(__file__).parents[2]
CLASSES = 10
FIRST_CATEGORY = 80_000_001
PER_CLASS = {"train": 4, "validation": 2, "test": 1}


def images_of(split: str) -> dict[str, tuple[int, bytes]]:
    """``{file name: (label, JPEG)}``, every class of a colour of its own."""
    found = {}
    for label in range(CLASSES):
        for index in range(PER_CLASS[split]):
            rng = np.random.default_rng([label, index, len(split)])
            colour = np.random.default_rng(label).integers(40, 216, 3)
            pixels = np.clip(colour + rng.normal(0, 20, (20, 26, 3)), 0, 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=95)
            found[f"svhn/{split}/{label}-{index}.jpg"] = (label, file.getvalue())
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS folder with a small svhn of TFDS's own builder, and the annotations it would have unpacked."""
    tfds = pytest.importorskip("tensorflow_datasets")
    original = tfds.builder_cls("visual_domain_decathlon")
    with tfds.core.registered.skip_registration():

        class Small(original):
            __module__ = "small"  # TFDS asks the package of a builder for its files; this one has none
            name = "visual_domain_decathlon"

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in PER_CLASS}

            def _generate_examples(self, split):
                for file, (label, data) in images_of(split).items():
                    hidden = -1 if split == "test" else label
                    yield file, {"name": file, "image": io.BytesIO(data), "label": hidden}

    data_dir = tmp_path_factory.mktemp("tfds")
    Small(data_dir=data_dir, config="svhn", file_format="array_record").download_and_prepare()
    annotations = data_dir / "downloads" / "extracted" / "devkit" / "decathlon-1.0" / "annotations"
    annotations.mkdir(parents=True)
    files = sorted(images_of("test"), reverse=True)
    images = [{"id": 5000 + i, "file_name": f"data/{file}"} for i, file in enumerate(files)]
    categories = [{"id": FIRST_CATEGORY + i, "name": f"{i}"} for i in range(CLASSES)]
    (annotations / "svhn_test_stripped.json").write_text(json.dumps({"images": images}))
    (annotations / "svhn_val.json").write_text(json.dumps({"categories": categories}))
    return data_dir


@pytest.fixture(scope="module")
def small(prepared, tmp_path_factory):
    """The recipe with a small network, small images, and little training."""
    root = tmp_path_factory.mktemp("small")
    network = models.create("resnet26_policy", num_classes=7, width=0.125)
    variables = network.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32))
    read_write.write(root / "reference.npz", models.to_torch_state(network, variables))
    return {
        "data_dir": str(prepared),
        "cache_dir": str(root / "cache"),
        "pretrained": str(root / "reference.npz"),
        "network": "resnet26_policy",
        "width": 0.125,
        "image_size": 16,
        "stored_size": 18,
        "train_resize": 18,
        "batch_size": 8,
        "epochs": 2,
        "drop_epochs": (1,),
        "frozen_first": 1,
    }


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """The study of svhn alone, and what came of it."""
    runs = Runs(tmp_path_factory.mktemp("study"), Replicas((jax.devices()[0],)))
    base = dataclasses.replace(study.recipe("svhn"), **small)
    return runs, study.run(study.configs(base, ["svhn"], given=tuple(small)), runs)


def test_splits_without_labels_and_names_of_files_are_read(prepared):
    source = sources.load("tfds:visual_domain_decathlon:svhn", data_dir=prepared, validation_fraction=0.0)
    assert [len(source.splits[split]) for split in ("train", "validation", "test")] == [40, 0, 20]
    hidden = source.unlabelled["test"]
    assert hidden.labels.tolist() == [-1] * 10
    assert sorted(hidden.names) == sorted(images_of("test"))
    assert sorted(source.splits["test"].names) == sorted(images_of("validation"))
    for examples in (hidden, source.splits["test"]):
        split = "test" if examples is hidden else "validation"
        _, data = images_of(split)[examples.names[3]]
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_allclose(examples.read(3), np.asarray(image), atol=2)


def test_names_of_files_are_remembered_with_the_labels(prepared, tmp_path, monkeypatch):
    from finetune_jax.data import tfds

    def load():
        return sources.load("tfds:visual_domain_decathlon:svhn", data_dir=prepared, cache_dir=tmp_path)

    first = load()
    monkeypatch.setattr(tfds, "_parse", lambda *_: pytest.fail("a record was read again"))
    assert load().unlabelled["test"].names == first.unlabelled["test"].names


def test_a_data_set_is_an_ordinary_run_measured_on_its_validation_split(finished):
    runs, result = finished
    summary = RunDirectory(runs.root / "runs" / "svhn").summary
    (entry,) = result["entries"]
    assert entry["accuracy"] == 100 * summary["test_accuracy"]
    assert summary["images"] == {"train": 40, "validation": 0, "test": 20}
    assert any("validation split" in note for note in summary["notes"])
    assert summary["parameters_trained"] == sum(
        summary["parameters_of_parts"][name] for name in summary["trained_parts"]
    )


def test_images_are_normalised_by_the_training_images_as_they_are_kept(finished):
    runs, _ = finished
    kept = []
    for _, data in images_of("train").values():
        with Image.open(io.BytesIO(data)) as image:
            kept.append(np.asarray(image.resize((18, 18), Image.Resampling.BICUBIC), np.float64) / 255)
    card, _ = read_best(runs.root / "runs" / "svhn")
    np.testing.assert_allclose(card.mean, np.mean(kept, (0, 1, 2)), atol=2e-3)
    np.testing.assert_allclose(card.std, np.std(kept, (0, 1, 2)), atol=2e-3)
    assert card.preprocessing == Preprocessing(16, 18, "shorter_side")


def test_the_binary_goes_on_with_finished_runs_and_writes_what_the_server_takes(finished, small):
    runs, result = finished
    given = {**small, "drop_epochs": "1", "workdir": str(runs.root), "compilation_cache": ""}
    command = [sys.executable, "-m", "experiments.decathlon", "--datasets=svhn"]
    command += [f"--{name}={value}" for name, value in given.items()]
    environment = {key: value for key, value in os.environ.items() if key != "NPROC"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "svhn:" not in done.stderr  # nothing is trained again
    written = (runs.root / "decathlon.txt").read_text()
    assert written in done.stdout
    assert written == study_report.text(decathlon_report.report(result)) + "\n"
    assert json.loads((runs.root / "decathlon.json").read_text()) == result

    files = sorted(images_of("test"), reverse=True)
    decoded = [np.asarray(Image.open(io.BytesIO(images_of("test")[file][1]))) for file in files]
    labels = finetune_jax.load(runs.root / "runs" / "svhn")(decoded).argmax(1)
    assert json.loads((runs.root / "results.json").read_text()) == [
        {"image_id": 5000 + i, "category_id": FIRST_CATEGORY + label} for i, label in enumerate(labels)
    ]


def test_the_files_for_the_server_must_fit_the_data(finished, prepared, tmp_path):
    runs, _ = finished
    with (runs.root / "runs" / "svhn" / "predictions-test.csv").open(newline="") as rows:
        labels = {row["image"]: int(row["label"]) for row in csv.DictReader(rows)}
    folder = decathlon_annotations.find(prepared)
    known = decathlon_annotations.read(folder, "svhn")
    assert len(study.submission({"svhn": labels}, {"svhn": known})) == 10
    file = min(labels)
    del labels[file]
    with pytest.raises(UserError, match=rf"svhn: 1 test images .* and 0 predicted .*{file}"):
        study.submission({"svhn": labels}, {"svhn": known})
    assert decathlon_annotations.find(tmp_path) is None
    with pytest.raises(UserError, match=r"dtd_val.json cannot be read .* decathlon-1.0/annotations"):
        decathlon_annotations.read(folder, "dtd")
    (tmp_path / "dtd_val.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"dtd_val.json is no annotation file with categories"):
        decathlon_annotations.read(tmp_path, "dtd")


def test_labels_are_asked_for_in_vain_where_all_images_have_some(tmp_path):
    config = FinetuneConfig(
        workdir=str(tmp_path / "run"), predict_unlabelled=True, method="scratch", pretrained="none"
    )
    with pytest.raises(UserError, match="--predict_unlabelled: all images of digits have labels"):
        finetune.run(config, Replicas((jax.devices()[0],)))


# --- without training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [method for method in METHODS if method != "autolr"]
)  # its rates are its own
@pytest.mark.parametrize("name", decathlon.DATASETS)
def test_the_recipe_is_a_valid_config_for_every_method(name, method):
    config = dataclasses.replace(study.recipe(name, method), pretrained="weights.pth")
    validate(config)
    if method == "lora":  # so are its rate and optimiser
        assert (config.optimizer, config.learning_rate) == ("adamw", 1e-3)
    else:
        assert (config.learning_rate, config.momentum, config.nesterov) == (0.1, 0.9, False)
    assert (config.batch_size, config.epochs, config.drop_epochs) == (128, 110, (40, 60, 80))
    assert (config.image_size, config.augmentation, config.normalization) == (64, "crop", "dataset")
    train, test = (preprocessing(config, 64, train=train) for train in (True, False))
    if name == "daimlerpedcls":  # its pedestrians are not cut
        assert (train, test) == (Preprocessing(72, 72), Preprocessing(64, 72))
    else:
        assert test == Preprocessing(64, 72, "shorter_side")
        assert shorter_side(config, 64) == 72
        assert train.resize == (72 if name in ("cifar100", "gtsrb", "omniglot", "svhn") else 96)
    assert config.frozen_first == (4 if "spottune" in method or method == "random_policy" else 0)
    assert config.weight_decay == (0 if method == "l2_sp" else decathlon.WEIGHT_DECAYS[name])
    assert config.policy_network == ("resnet26_policy" if "spottune" in method else "")


def test_settings_that_are_given_go_before_those_of_the_data_set():
    base = dataclasses.replace(study.recipe("dtd"), weight_decay=0.1)
    found = study.configs(base, ["svhn", "aircraft"], given=("weight_decay",))
    assert list(found) == ["aircraft", "svhn"]
    assert [config.weight_decay for config in found.values()] == [0.1, 0.1]
    assert found["svhn"].dataset == "tfds:visual_domain_decathlon:svhn"


def test_every_data_set_has_a_weight_decay_of_its_own():
    found = study.configs(study.recipe("dtd"), ["ucf101", "daimlerpedcls", "svhn"])
    assert {name: config.weight_decay for name, config in found.items()} == {
        "daimlerpedcls": 5e-4,
        "svhn": 0.0,
        "ucf101": 5e-4,
    }


@pytest.mark.parametrize("names", [[], ["dtd", "dtd"], ["mnist"]])
def test_unknown_and_doubled_data_sets_are_refused(names):
    with pytest.raises(
        UserError, match=f"--datasets={','.join(names)}: give some of imagenet12, .*none twice"
    ):
        study.configs(study.recipe("dtd"), names)


def summary_of(accuracy: float, method: str = "spottune") -> dict:
    """Of a run on a full ResNet-26 that never took place."""
    network = registry.create("resnet26", 10)
    model = RoutedNetwork(network, policy_for(network, "resnet26_policy", 8), 4)
    sizes = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for name, tree in model.shapes()["params"].items()
    }
    trained = {
        "spottune": model.trained_parts,
        "standard": network.part_names,
        "feature_extractor": ("head",),
    }
    return {
        "test_accuracy": accuracy,
        "images": {"train": 8},
        "notes": [],
        "epochs_trained": 110,
        "seconds": 1.0,
        "parameters_of_parts": sizes,
        "trained_parts": list(trained.get(method, model.trained_parts)),
        **({"tuned_blocks": ["block_06", "block_08", "block_11"]} if method == "spottune_global" else {}),
    }


def published_again(method: str, row: str, names=decathlon.DATASETS):
    """The study whose runs have a published row's accuracies."""
    accuracies = dict(zip(decathlon.DATASETS, decathlon.TABLE_3[row].accuracies, strict=True))
    base = study.recipe("dtd", method)
    return study.run(study.configs(base, names), lambda _, name: summary_of(accuracies[name] / 100, method))


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("spottune", "SpotTune"),
        ("spottune_global", "SpotTune (Global-k)"),
        ("standard", "Fine-tuning"),
        ("feature_extractor", "Feature Extractor"),
    ],
)
def test_parameters_are_counted_as_in_the_paper(method, row):
    result = published_again(method, row)
    assert round(result["multiple"]) == decathlon.TABLE_3[row].parameters


def test_the_published_accuracies_give_the_published_row():
    result = published_again("spottune", "SpotTune")
    assert result["missing"] == []
    lines = study_report.text(decathlon_report.report(result)).splitlines()
    (ours,) = [line.split() for line in lines if line.startswith("ours: spottune")]
    (theirs,) = [line.split() for line in lines if line.startswith("SpotTune ") and "11x" in line]
    assert ours[3:] == theirs[2:]
    assert theirs[-1] == "3612"
    assert "validation split" in lines[-1]


def test_some_data_sets_are_scored_beside_the_same_ones_of_the_paper():
    names = ["dtd", "svhn"]
    result = published_again("spottune", "SpotTune", names)
    errors = {"dtd": 100 - 57.13, "svhn": 100 - 96.72}
    expected = sum(
        1000 * max(0, 1 - error / (2 * decathlon.BASELINE_ERRORS[name])) ** 2
        for name, error in errors.items()
    )
    assert result["score"] == pytest.approx(expected, rel=1e-5)
    text = study_report.text(decathlon_report.report(result))
    rows = [line.split() for line in text.splitlines() if line.startswith(("ours: spottune", "SpotTune  "))]
    assert [row[-1] for row in rows] == [f"{expected:.0f}"] * 2
    assert "missing: imagenet12, aircraft" in text
    assert "over the other 2 of 10" in text


def test_a_data_set_on_which_training_diverged_does_not_end_the_study():
    def train(config, name):
        if name == "svhn":
            raise Diverged("not finite")
        return summary_of(0.5)

    result = study.run(study.configs(study.recipe("dtd"), ["dtd", "svhn"]), train)
    assert "svhn" in result["missing"]
    text = study_report.text(decathlon_report.report(result))
    assert "training diverged on svhn" in text
    assert "over the other 1 of 10" in text
    nothing = study.run(study.configs(study.recipe("dtd"), ["svhn"]), train)
    assert (nothing["multiple"], nothing["score"]) == (None, 0.0)
    assert study_report.text(decathlon_report.report(nothing))


@pytest.mark.parametrize("number", list(published.TABLES))
def test_every_row_of_the_published_tables_that_has_settings_is_a_valid_config(number):
    table = published.TABLES[number]
    for row in table.rows:
        assert all(len(row.numbers[data]) == len(table.metrics[data]) for data in table.metrics)
        if row.settings is not None:
            validate(reproduce.configured(table, row, FinetuneConfig(dataset="digits"), given=("dataset",)))
    runnable = {row.name for row in table.rows if row.settings is not None}
    assert {"SpotTune", "SpotTune (Global-k)", "Feature Extractor"} <= runnable
    assert {row.settings["k"] for row in table.rows if row.name == "SpotTune (Global-k)"} == {3}


def test_rows_of_table_3_have_the_weight_decay_of_their_data_set():
    table = published.TABLES["3"]
    for name, expected in (("dtd", 0.0), ("ucf101", 5e-4)):
        base = FinetuneConfig(dataset=f"tfds:visual_domain_decathlon:{name}")
        config = reproduce.configured(table, table.rows[-1], base, ("dataset",), table.data_of(base.dataset))
        assert (config.weight_decay, config.method, config.epochs) == (expected, "spottune", 110)
    assert reproduce.configured(table, table.rows[-1], base, given=("weight_decay",)).weight_decay == 5e-4
