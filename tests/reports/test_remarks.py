"""What is plain to see at the end of a run is remarked, and nothing else."""

import numpy as np
import pytest

from finetune_jax.reports.remarks import remarks
from finetune_jax.reports.run_result import Classified, RunResult

NAMES = ("cat", "dog", "hat")


def rows(validation_loss, train_loss=None, train=None, validation=None):
    count = len(validation_loss)
    train_loss = train_loss or [2 / i for i in range(1, count + 1)]
    return [
        {
            "epoch": str(i + 1),
            "train_loss": str(train_loss[i]),
            "train_accuracy": str((train or [0.5] * count)[i]),
            "validation_loss": str(validation_loss[i]),
            "validation_accuracy": str((validation or [0.5] * count)[i]),
        }
        for i in range(count)
    ]


def classified(predicted, labels):
    return Classified(np.eye(3)[np.asarray(predicted)] * 5, np.asarray(labels), NAMES)


GOOD = classified([0, 1, 2] * 40, [0, 1, 2] * 40)


def remarks_of(metrics=None, test=GOOD, validation=200, selected_on="validation", flags=(), **more):
    summary = {"images": {"validation": validation}, "selected_on": selected_on}
    metrics = metrics or rows([2.0, 1.5, 1.2, 1.0])
    return remarks(RunResult(dict(flags), "accuracy", metrics, [], summary=summary, test=test, **more))


def test_a_good_run_has_no_remarks_and_one_that_goes_on_neither():
    assert remarks_of() == []
    assert remarks(RunResult({}, "accuracy", rows([1.0, 3.0, 4.0, 5.0, 6.0]), [])) == []


@pytest.mark.parametrize(("accuracy", "told"), [(0.71, False), (0.70, True), (0.4, True)])
def test_a_run_that_is_not_above_a_probe_of_the_frozen_features_has_not_paid(accuracy, told):
    probe = {"ridge": {"test_accuracy": 0.7}, "neighbours": {"test_accuracy": 0.6}, "images": 40}
    summary = {"images": {"test": 100}, "score": "test_accuracy", "test_accuracy": accuracy, "probe": probe}
    found = remarks(RunResult({}, "accuracy", rows([2.0, 1.0]), [], summary=summary, test=GOOD))
    if not told:
        assert found == []
        return
    (text,) = found
    assert text.startswith("a linear probe, before fine-tuning, reaches 70.00 % test accuracy, and this run ")
    assert "--method=feature_extractor" in text
    summary["method"] = "feature_extractor"
    (text,) = remarks(RunResult({}, "accuracy", rows([2.0, 1.0]), [], summary=summary, test=GOOD))
    assert text.endswith("try another --learning_rate or more --epochs")


def test_overfitting_is_told_since_the_epoch_of_the_lowest_validation_loss():
    (text,) = remarks_of(rows([2.0, 1.0, 1.1, 1.3, 1.5]))
    assert text.startswith("overfitting since epoch 2: the validation loss has risen from 1.000 to 1.500")


@pytest.mark.parametrize(
    "losses",
    [
        [2.0, 1.0, 1.01, 1.02, 1.03],  # hardly risen
        [2.0, 1.5, 1.0, 1.3, 1.5],  # two epochs ago
        [2.0],
    ],
)
def test_noise_of_the_validation_loss_is_no_overfitting(losses):
    assert remarks_of(rows(losses)) == []


def test_a_training_loss_that_rises_too_is_no_overfitting():
    assert remarks_of(rows([2.0, 1.0, 1.1, 1.3, 1.5], train_loss=[2.0, 1.0, 1.2, 1.4, 1.6])) == []


def test_images_that_are_known_by_heart_are_told_though_the_loss_stays():
    metrics = rows([1.0] * 5, train=[0.5, 0.9, 0.98, 1.0, 1.0], validation=[0.4, 0.42, 0.41, 0.42, 0.42])
    (text,) = remarks_of(metrics)
    assert text.startswith("learned by heart since epoch 3: training accuracy 100.00 % against 42.00 %")


def test_one_validation_image_that_is_a_point_or_more_is_told():
    (text,) = remarks_of(validation=36)
    assert text.startswith("one of the 36 validation images is 2.8 points of accuracy")
    assert remarks_of(validation=101) == []
    assert remarks_of(validation=36, selected_on="last") == []


def test_a_class_that_is_never_predicted_is_named_with_its_images():
    (text,) = remarks_of(test=classified([0, 1, 1] * 40, [0, 1, 2] * 40))
    assert text.startswith("no test image is taken for hat (40)")


def test_a_result_that_chance_reaches_is_told():
    found = remarks_of(test=classified([0] * 30, [0] * 12 + [1] * 9 + [2] * 9))
    assert found[0].startswith("to name the commonest class every time would be right for 40.00 %")
    assert "dog (9), hat (9)" in found[1]


def test_thumbnails_are_told_where_larger_weights_are_installed_and_the_photos_are_larger():
    seen = {"image_size": 32, "photo_size": 256, "larger_weights": ("mobilenet_v2",)}
    (text,) = remarks_of(**seen)
    assert "thumbnails of 32 pixels" in text
    assert "--pretrained=mobilenet_v2" in text
    (own,) = remarks_of(**seen, flags={"pretrained": "mobilenet_v2"})
    assert own.endswith("its weights are for larger images: leave out --image_size")
    assert remarks_of(**{**seen, "larger_weights": ()}) == []
    assert remarks_of(**{**seen, "photo_size": 32}) == []
    assert remarks_of(**{**seen, "image_size": 224}) == []
