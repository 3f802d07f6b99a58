"""Fine-tuning from Python, with images as a program has them, and as an estimator of scikit-learn."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.utils import estimator_checks

import finetune_jax
from finetune_jax.data import in_memory
from finetune_jax.data.decode import Decoding
from finetune_jax.data.in_memory import Part
from finetune_jax.errors import UserError
from finetune_jax.reports import run_page

LABELS = np.array(["dark", "light"])[np.arange(64) % 2]
IMAGES = (
    np.random.default_rng(0).integers(0, 100, (64, 16, 16, 3))
    + 150 * (np.arange(64) % 2)[:, None, None, None]
).astype(np.uint8)
SETTINGS = {
    "method": "feature_extractor",
    "image_size": 16,
    "epochs": 2,
    "batch_size": 6,
    "learning_rate": 0.1,
}
CHECKS_FOR_IMAGES = (
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_estimators_unfitted,
)
"""Checks of scikit-learn that fit on no table of floats, which is no image."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finetune_jax.fit(IMAGES, LABELS, workdir=tmp_path_factory.mktemp("python") / "run", **SETTINGS)


def test_a_run_of_arrays_labels_arrays_files_and_pillow_images_alike(run, tmp_path):
    assert (
        run.summary["images"]["train"] + run.summary["images"]["validation"] + run.summary["images"]["test"]
        == 64
    )
    Image.fromarray(IMAGES[1]).save(tmp_path / "light.png")
    several = [
        IMAGES[0],
        Image.fromarray(IMAGES[0]),
        tmp_path / "light.png",
        (tmp_path / "light.png").read_bytes(),
    ]
    np.testing.assert_allclose(run(several), run(IMAGES[[0, 0, 1, 1]]), atol=1e-6)
    assert finetune_jax.predict(run, several) == ["dark", "dark", "light", "light"]
    assert finetune_jax.predict(str(run.directory), IMAGES[:1]) == ["dark"]


def test_the_same_call_again_trains_nothing_and_another_image_is_another_run(run):
    again = finetune_jax.fit(IMAGES.copy(), list(LABELS), workdir=run.directory, **SETTINGS)
    assert again.summary == run.summary
    changed = IMAGES.copy()
    changed[3] = 0
    with pytest.raises(UserError, match="another --workdir"):
        finetune_jax.fit(changed, LABELS, workdir=run.directory, **SETTINGS)


def test_scores_of_images_in_memory_are_those_counted_by_hand(run):
    wrong = LABELS.copy()
    wrong[:8] = LABELS[1:9]  # of eight images the other class
    result = finetune_jax.evaluate(run, IMAGES, wrong)
    expected = np.mean(np.array(finetune_jax.predict(run, IMAGES)) == wrong)
    assert result["scores"]["accuracy"] == pytest.approx(expected)
    assert result["images_per_class"] == {"dark": 32, "light": 32}


def test_the_test_split_is_measured_as_the_run_measured_it(run):
    result = finetune_jax.evaluate(run)
    assert result["scores"]["accuracy"] == pytest.approx(run.summary["test_accuracy"])


def test_mistakes_are_said_in_one_sentence(run, tmp_path):
    for message, call in {
        "there is no setting lr; it is called learning_rate here": lambda: finetune_jax.fit(
            IMAGES, LABELS, lr=1
        ),
        "epochs='3' must be a whole number": lambda: finetune_jax.fit(IMAGES, LABELS, epochs="3"),
        "--epochs=0 is out of range": lambda: finetune_jax.fit(IMAGES, LABELS, epochs=0),
        "64 images and 3 labels": lambda: finetune_jax.fit(IMAGES, LABELS[:3]),
        "labels are missing": lambda: finetune_jax.fit(IMAGES),
        "brings its own labels and splits": lambda: finetune_jax.fit("digits", LABELS),
        "at least two classes": lambda: finetune_jax.fit(IMAGES, ["a"] * 64),
        "no_such.png cannot be read": lambda: finetune_jax.fit([tmp_path / "no_such.png"] * 2, ["a", "b"]),
        "does not know the classes blue": lambda: finetune_jax.evaluate(run, IMAGES[:1], ["blue"]),
        "in the memory of a Python program": lambda: in_memory.read("memory:0123"),
    }.items():
        with pytest.raises(UserError, match=message):
            call()


def test_images_of_several_classes_and_numbers_are_learned_and_measured(tmp_path):
    light = np.arange(64) % 2
    lists = [["pale", "any"] if number else ["any"] for number in light]
    several = finetune_jax.fit(IMAGES, lists, workdir=tmp_path / "several", **SETTINGS)
    assert several.class_names == ("any", "pale")
    assert all("any" in names for names in finetune_jax.predict(several, IMAGES[:4]))
    found = finetune_jax.evaluate(several, IMAGES, lists)
    assert found["task"] == "multilabel"
    assert set(found["per_class"]) == {"any", "pale"}
    assert (several.directory / "predictions-test.csv").read_text().startswith("image,label,prediction,")
    numbers = finetune_jax.fit(IMAGES, 0.5 + light, workdir=tmp_path / "numbers", **{**SETTINGS, "epochs": 5})
    said = np.array(finetune_jax.predict(numbers, IMAGES))
    assert said[light == 1].mean() > said[light == 0].mean()
    result = finetune_jax.evaluate(numbers, IMAGES, 0.5 + light)
    expected = np.abs(said - 0.5 - light).mean()
    assert result["scores"]["mae"] == pytest.approx(expected, rel=1e-3)


def test_groups_stay_on_one_side_and_numbers_are_sorted_by_value():
    groups = np.arange(64) // 4
    held = in_memory.hold({"train": Part(IMAGES, np.arange(64) % 11, groups)}, decoding=Decoding())
    assert held.source.class_names == tuple(str(number) for number in range(11))
    source = in_memory.read(held.source.name)
    assert source.splits["train"].groups is not None
    assert len(np.unique(source.splits["train"].groups, axis=0)) == 16


def test_files_are_named_and_remembered_by_their_content(tmp_path):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(IMAGES[number]).save(paths[-1])
    held = in_memory.hold({"train": Part(paths, [0, 1, 0, 1])}, decoding=Decoding())
    encoded = in_memory.hold(
        {"train": Part([p.read_bytes() for p in paths], [0, 1, 0, 1])}, decoding=Decoding()
    )
    assert held.source.splits["train"].names[0] == str(paths[0])
    assert held.source.name == encoded.source.name
    np.testing.assert_array_equal(held.source.splits["train"].read(2), IMAGES[2])


# --- scikit-learn --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS_FOR_IMAGES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["ImageClassifier", "ImageRegressor"])
def test_an_estimator_passes_a_check_of_scikit_learn(name, check):
    check(name, getattr(finetune_jax, name)())


def test_cross_validation_predicts_every_image_once_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A report that is deleted with the run would be half of its time.
    monkeypatch.setattr(run_page, "files", None)
    classifier = finetune_jax.ImageClassifier(**{**SETTINGS, "epochs": 4}, cache_dir=str(tmp_path / "cache"))
    predicted = cross_val_predict(classifier, IMAGES, LABELS, cv=2)
    assert (predicted == LABELS).mean() > 0.9
    assert [path.name for path in Path(tmp_path).iterdir()] == ["cache"]
    with pytest.raises(UserError, match="select_on='last'"):
        classifier.set_params(validation_fraction=0.0).fit(IMAGES, LABELS)


def test_a_fitted_estimator_is_searched_pickled_and_cloned(tmp_path):
    classifier = finetune_jax.ImageClassifier(**SETTINGS, cache_dir=str(tmp_path))
    images = [Image.fromarray(image) for image in IMAGES]
    halves = [(np.arange(32), np.arange(32, 64))]
    search = GridSearchCV(classifier, {"epochs": [1]}, cv=halves).fit(images, LABELS)
    fitted = search.best_estimator_
    assert list(fitted.classes_) == ["dark", "light"]
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(IMAGES[:4]), fitted.predict_proba(IMAGES[:4]))
    np.testing.assert_allclose(fitted.predict_proba(IMAGES).sum(1), 1, atol=1e-5)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(IMAGES)


def test_images_that_weigh_nothing_teach_nothing(tmp_path):
    wrong = np.arange(64) % 4 < 2
    labels = np.where(wrong, LABELS[::-1], LABELS)
    assert (labels == LABELS).mean() == 0.5
    settings = {**SETTINGS, "epochs": 4, "validation_fraction": 0.0, "select_on": "last"}
    classifier = finetune_jax.ImageClassifier(**settings, cache_dir=str(tmp_path))
    right = classifier.fit(IMAGES, labels, sample_weight=~wrong).predict(IMAGES) == LABELS
    assert right.mean() > 0.9
    with pytest.raises(UserError, match=r"64 images and weights of the shape \(3,\)"):
        classifier.fit(IMAGES, labels, sample_weight=[1, 2, 3])
    with pytest.raises(UserError, match="negative or no number"):
        classifier.fit(IMAGES, labels, sample_weight=-np.ones(64))


def cross_validated(estimator, labels):
    """The estimator fitted to one half of the images, its score on the other, and what it says of that."""
    half = [(np.arange(32), np.arange(32, 64))]
    found = cross_validate(estimator, IMAGES, labels, cv=half, return_estimator=True)
    (fitted,) = found["estimator"]
    return fitted, found["test_score"][0], fitted.predict(IMAGES[32:])


def test_rows_of_labels_are_classified_and_cross_validated(tmp_path):
    rows = np.stack([np.ones(64, int), np.arange(64) % 2, 1 - np.arange(64) % 2], 1)
    classifier = finetune_jax.ImageClassifier(**{**SETTINGS, "epochs": 4}, cache_dir=str(tmp_path))
    fitted, score, predicted = cross_validated(classifier, rows)
    assert score == np.mean((predicted == rows[32:]).all(1))
    assert (predicted == rows[32:]).mean() > 0.9
    probabilities = fitted.predict_proba(IMAGES[32:])
    assert probabilities[:, 0].min() > 0.5
    assert list(fitted.classes_) == [0, 1, 2]
    for task, y, message in (
        ("regression", rows, "use ImageRegressor"),
        (None, rows * (1 + np.arange(64)[:, None] % 2), "row of 0 and 1"),
        ("ordinal", LABELS, "labels that are numbers"),
    ):
        with pytest.raises(UserError, match=message):
            clone(classifier).set_params(task=task).fit(IMAGES, y)


def test_numbers_are_predicted_in_their_own_units_and_cross_validated(tmp_path):
    light = IMAGES.mean((1, 2, 3), dtype=np.float64) / 1000
    settings = {**SETTINGS, "epochs": 5, "learning_rate": 0.02}
    regressor = finetune_jax.ImageRegressor(**settings, cache_dir=str(tmp_path))
    fitted, score, predicted = cross_validated(regressor, light)
    assert predicted.shape == (32,)
    assert score == pytest.approx(r2_score(light[32:], predicted))
    assert np.abs(predicted - light[32:]).mean() < light.std()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(IMAGES[32:34]), predicted[:2])
    with pytest.raises(UserError, match="use ImageClassifier"):
        clone(regressor).set_params(task="ordinal").fit(IMAGES, light)
