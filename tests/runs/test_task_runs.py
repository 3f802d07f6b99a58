"""Runs that learn several labels, grades and numbers from a table: trained, measured, used, exported, gone on with."""

import contextlib
import csv
import dataclasses
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import finetune_jax
from finetune_jax.commands.web.answers import Request
from finetune_jax.commands.web.site import Site
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.reports import tables
from finetune_jax.runs import evaluate, explain, export, finetune, interpolate
from finetune_jax.runs.catalogue import Catalogue
from finetune_jax.runs.labelling import Labelling

COUNT = 60
COLUMNS = {"multilabel": "label=colours", "regression": "label=light", "ordinal": "label=grade"}
SPLITS = ("train", "train", "train", "validation", "test")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Squares whose channels are bright or dark, with a list of the bright ones, their light and a grade."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = ["image,colours,light,grade,split,patient"]
    for number in range(COUNT):
        bright = rng.random(3) < 0.5
        pixels = rng.integers(0, 40, (16, 16, 3)) + 180 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        names = "|".join(np.array(["red", "green", "blue"])[bright])
        split = SPLITS[number % 5]
        rows.append(
            f"{number}.png,{names},{pixels.mean() / 2:.2f},{bright.sum() * 10},{split},{split}{number % 2}"
        )
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


@pytest.fixture(scope="module", params=COLUMNS)
def run(request, table, tmp_path_factory):
    """The config, the summary and the table of a run of each task."""
    config = FinetuneConfig(
        dataset=f"csv:{table}",
        columns=("image=image", COLUMNS[request.param], "group=patient"),
        task="auto" if request.param == "regression" else request.param,
        workdir=str(tmp_path_factory.mktemp("runs") / request.param),
        cache_dir=str(table.parent / "cache"),
        method="feature_extractor",
        epochs=3,
        batch_size=12,
        learning_rate=0.01,
    )
    summary = finetune.run(config, Replicas(jax.devices()[:1]))
    return config, summary, list(csv.DictReader(table.open()))


def test_the_scores_are_those_of_scikit_learn_on_what_the_run_predicts(run, table):
    config, summary, rows = run
    task = summary["task"]
    predictor = finetune_jax.load(config.workdir)
    test = [row for row in rows if row["split"] == "test"]
    values = predictor([table.parent / row["image"] for row in test])
    if task == "multilabel":
        assert predictor.class_names == ("blue", "green", "red")
        truth = np.array(
            [[name in row["colours"].split("|") for name in predictor.class_names] for row in test]
        )
        precision = metrics.average_precision_score(truth, values, average="macro")
        assert summary["score"] == "test_mean_average_precision"
        assert summary["test_mean_average_precision"] == pytest.approx(precision)
        said = values >= np.float32(predictor.card.thresholds)
        assert summary["test_macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
        assert predictor.labels(table.parent / test[0]["image"]) == [
            tuple(np.array(predictor.class_names)[said[0]])
        ]
    elif task == "regression":
        truth = np.array([float(row["light"]) for row in test])
        assert summary["test_r2"] == pytest.approx(metrics.r2_score(truth, values[:, 0]), abs=1e-4)
        assert summary["test_rmse"] == pytest.approx(
            metrics.root_mean_squared_error(truth, values[:, 0]), rel=1e-4
        )
        assert summary["test_rmse"] < truth.std() * 1.5  # in its own units
        assert "temperature" not in summary
    else:
        assert predictor.class_names == ("0", "10", "20", "30")
        np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
        truth = np.array([int(row["grade"]) // 10 for row in test])
        kappa = metrics.cohen_kappa_score(truth, values.argmax(1), weights="quadratic", labels=range(4))
        assert summary["test_quadratic_kappa"] == pytest.approx(kappa)
        assert summary["test_mae"] == pytest.approx(10 * np.abs(truth - values.argmax(1)).mean())
    low, high = summary["intervals"][summary["score"]]
    assert low <= summary[summary["score"]] <= high
    assert set(summary["groups"]) == {"test0", "test1"}
    assert sum(group["images"] for group in summary["groups"].values()) == len(test)


def test_several_threads_may_ask_at_once(run, table):
    config, _, rows = run
    predictor = finetune_jax.load(config.workdir)
    files = [table.parent / row["image"] for row in rows[:8]]
    with ThreadPoolExecutor(4) as pool:
        apart = list(pool.map(predictor, files))  # the first of them compile
    np.testing.assert_array_equal(np.concatenate(apart), np.concatenate([predictor(file) for file in files]))


def test_measuring_again_gives_the_summary_of_the_run(run):
    config, summary, _ = run
    data = data_config_of(Path(config.workdir))
    assert data.task == summary["task"]
    result = evaluate.measure(
        Path(config.workdir), data, Replicas(jax.devices()[:1]), split="test", protocol="classification"
    )
    score = summary["score"].removeprefix("test_")
    assert result["scores"][score] == pytest.approx(summary[summary["score"]], abs=1e-6)
    assert result["intervals"][score] == pytest.approx(summary["intervals"][f"test_{score}"], abs=1e-6)
    assert result["groups"] == summary["groups"]
    json.dumps(result, allow_nan=False)


def test_the_page_shows_what_the_task_is_about(run):
    config, summary, _ = run
    page = (Path(config.workdir) / "report.html").read_text()
    shown = {
        "multilabel": ("<h2>Classes</h2>", "average precision", "threshold"),
        "regression": (
            "<h2>Predictions</h2>",
            "Predicted light of each test image",
            "Furthest from the truth",
        ),
        "ordinal": ("<h2>Confusions</h2>", "quadratic kappa"),
    }[summary["task"]]
    for text in shown:
        assert text in page
    assert "Scores of the test images of each group" in page


def test_a_file_of_the_run_says_the_same(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    config, summary, _ = run
    file = tmp_path / "run.onnx"
    export.export(Path(config.workdir), file, format="onnx")
    predictor = finetune_jax.load(config.workdir)
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert output.name == ("values" if summary["task"] == "regression" else "probabilities")
    size = predictor.card.preprocessing.image_size
    assert size == 32
    computed = session.run(None, {"images": images})[0]
    card, variables = read_best(Path(config.workdir))
    logits = np.asarray(export.function_of(card, variables, softmax=True)(images))
    np.testing.assert_allclose(computed, logits, rtol=1e-4, atol=1e-4)


def test_networks_between_a_run_and_its_start_are_judged_by_the_score_of_the_task(run, table, tmp_path):
    config, summary, rows = run
    one, workdir = Replicas(jax.devices()[:1]), Path(config.workdir)
    curve = interpolate.interpolate(
        workdir, (0.5, 1.0), one, output=tmp_path / "between", others=[config.dataset]
    )
    assert curve.scores["test"] == curve.scores[config.dataset]
    assert summary["score"] == f"test_{curve.score_name}"
    # Grades that are most probable may be others at another temperature, so the judge looks without it.
    predictor = finetune_jax.load(tmp_path / "between", calibrated=summary["task"] == "multilabel")
    validation = [row for row in rows if row["split"] == "validation"]
    values = predictor([table.parent / row["image"] for row in validation])
    if summary["task"] == "multilabel":
        truth = np.array([[name in row["colours"] for name in predictor.class_names] for row in validation])
        expected = metrics.average_precision_score(truth, values, average="macro")
        said = metrics.f1_score(truth, values >= np.float32(predictor.card.thresholds), average="macro")
        assert said >= metrics.f1_score(truth, values >= 0.5, average="macro")
    elif summary["task"] == "regression":
        expected = metrics.r2_score([float(row["light"]) for row in validation], values[:, 0])
    else:
        grades = [int(row["grade"]) // 10 for row in validation]
        expected = metrics.cohen_kappa_score(grades, values.argmax(1), weights="quadratic", labels=range(4))
    assert curve.scores["validation"][curve.chosen] == pytest.approx(expected, abs=1e-4)
    if summary["task"] == "multilabel":
        soup = interpolate.soup([workdir, tmp_path / "between"], one)
        assert soup.score >= max(curve.scores["validation"]) - 1e-6


def test_several_data_sets_are_one_table_of_the_scores_of_the_task(run):
    config, summary, _ = run
    data = data_config_of(Path(config.workdir))
    configs = {"first": data, "second": evaluate.of_data_set(data, config.dataset)}
    one = Replicas(jax.devices()[:1])
    results = evaluate.measure_all(
        Path(config.workdir), configs, one, split="test", protocol="classification"
    )
    table = tables.measurements_table(results)
    assert [row[0] for row in table.rows] == ["first", "second"]
    name = summary["score"].removeprefix("test_")
    assert results["second"]["scores"][name] == pytest.approx(summary[summary["score"]], abs=1e-6)
    place = table.columns.index(tables.spoken(name))
    assert table.rows[0][place] == table.rows[1][place]
    assert tables.score_text(name, summary[summary["score"]]) in table.rows[0][place]


def test_lines_of_labels_and_numbers(run, table):
    config, summary, _ = run
    predictor = finetune_jax.load(config.workdir)
    image = table.parent / "4.png"
    labelling = Labelling(predictor, format="csv")
    (row,) = csv.DictReader(io.StringIO(labelling.header + "".join(labelling.lines(["4.png"], [image]))))
    values = predictor(image)[0]
    if summary["task"] == "regression":
        assert float(row["value"]) == pytest.approx(float(values[0]), rel=1e-5)
        with pytest.raises(UserError, match="--threshold is for labels, and the run predicts numbers"):
            Labelling(predictor, threshold=0.5)
        return
    if summary["task"] == "multilabel":
        assert set(filter(None, row["label"].split("|"))) == set(predictor.labels(image)[0])
        everything = Labelling(predictor, format="csv", threshold=0.0)
        assert "".join(everything.lines(["4.png"], [image])).count("|") == 4
        return
    assert row["label"] == predictor.class_names[values.argmax()]
    unknown = Labelling(predictor, format="csv", threshold=1.0, uncertainty=True)
    (row,) = csv.DictReader(io.StringIO(unknown.header + "".join(unknown.lines(["4.png"], [image]))))
    assert row["label"] == "none of these"
    entropy = -(values * np.log(values)).sum() / np.log(4)
    assert float(row["uncertainty"]) == pytest.approx(entropy, abs=1e-5)


def test_the_app_says_of_a_photo_and_of_a_split_what_the_task_is_about(run, table):
    config, summary, rows = run
    task, place = summary["task"], Path(config.workdir)
    site = Site(Catalogue(place.parent))
    predictor = finetune_jax.load(place)

    def get(*path, method="GET", body=b"", **query):
        answer = site.respond(Request(method, ("run", place.name, *path), query, body, "x.png"))
        assert answer.status == 200
        return answer.body.decode()

    test = [row for row in rows if row["split"] == "test"]
    files = [table.parent / row["image"] for row in test]
    values = predictor(files)
    photo = files[0].read_bytes()
    told = get("photo", "labels", method="POST", body=photo)
    looks = get("photo", "map", method="POST", body=photo)
    assert looks.count("<figure>") == 4
    similar = get("photo", "neighbours", method="POST", body=photo)
    mistakes = get("mistakes", "list", split="test")
    shown = [Path(name).name for name in re.findall(r'title="([^"]+)"', mistakes)]
    if task == "multilabel":
        said = values >= np.float32(predictor.card.thresholds)
        for name, there in zip(predictor.class_names, said[0], strict=True):
            assert (f"<strong>{name}</strong>" in told) == there
            assert name in get("photo")  # to ask Grad-CAM for
        truth = np.array(
            [[name in row["colours"].split("|") for name in predictor.class_names] for row in test]
        )
        assert set(shown) == {
            row["image"] for row, wrong in zip(test, said != truth, strict=True) if wrong.any()
        }
        assert f"{len(shown)} of {len(test)} test images have a label too many or too few" in mistakes
        assert re.search(r"(red|green|blue)(, (red|green|blue))* 0\.\d\d|none of the labels", similar)
    elif task == "regression":
        assert f"<h2>light {values[0, 0]:.4g}</h2>" in told
        assert "%" not in told.split("<h2>")[1]
        assert "what speaks for more light" in looks
        assert "<select" not in get("photo")
        far = [abs(float(row["light"]) - value) for row, value in zip(test, values[:, 0], strict=True)]
        assert shown == [test[i]["image"] for i in np.argsort(far)[::-1]]
        assert "%" not in site.respond(Request("GET", ("live", "runs"))).body.decode().split("<tbody>")[1]
    else:
        assert re.findall(r"<td>(?:<strong>)?(\d+)", told) == list(predictor.class_names)  # in their order
        assert f"<strong>{predictor.class_names[values[0].argmax()]}</strong>" in told
        assert "a higher grade" in looks
        assert "<select" not in get("photo")
        assert f"of {len(test)} test images" in mistakes
        assert "data-set" in mistakes
        with pytest.raises(UserError, match="are one scale; leave it out"):
            explain.of_blocks(place, files[:1], class_name="10")
    assert explain.of_blocks(place, files[:1]).startswith(b"\x89PNG")
    assert tables.score_text(summary["score"], summary[summary["score"]]).replace(" ", "\xa0") in get()


def test_a_run_that_was_stopped_ends_with_the_same_numbers(run, tmp_path):
    config, summary, _ = run
    again = dataclasses.replace(config, workdir=str(tmp_path / "run"))

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        finetune.run(again, Replicas(jax.devices()[:1]), stop)
    ended = finetune.run(again, Replicas(jax.devices()[:1]))
    timing = {"seconds", "seconds_per_epoch", "seconds_of_this_start"}
    assert {k: v for k, v in ended.items() if k not in timing} == {
        k: v for k, v in summary.items() if k not in timing
    }
    for name in ("calibration.json", "data.npz"):
        before, after = Path(config.workdir) / name, Path(again.workdir) / name
        assert before.exists() == after.exists()
        assert not before.exists() or before.read_bytes() == after.read_bytes()


def test_settings_that_the_task_has_no_meaning_for_are_named(table, tmp_path):
    config = FinetuneConfig(
        dataset=f"csv:{table}",
        columns=("image=image", "label=light"),
        workdir=str(tmp_path / "run"),
        cache_dir=str(table.parent / "cache"),
        class_weights="balanced",
        batch_size=12,
    )
    with pytest.raises(UserError, match="--class_weights=balanced has no meaning with --task=regression"):
        finetune.run(config, Replicas(jax.devices()[:1]))
    assert not (tmp_path / "run").exists()
