"""Labels from Python: classes, lists and rows of classes, numbers."""

import numpy as np
import pytest

from finetune_jax.data import memory_labels
from finetune_jax.errors import UserError


def test_names_and_whole_numbers_are_classes_in_their_order():
    named = memory_labels.understand({"train": ["b", "a", "b"], "test": ["a"]})
    assert (named.task, named.class_names) == ("classification", ("a", "b"))
    assert named.labels["train"].tolist() == [1, 0, 1]
    for labels in ([10, 2, 10], [10.0, 2.0, 10.0], np.array([10, 2, 10], np.uint8), ["10", "2", "10"]):
        assert memory_labels.understand({"train": labels}).class_names == ("2", "10")


def test_lists_and_rows_of_classes_are_the_same_targets():
    lists = memory_labels.understand({"train": [["1", "0"], [], ["1"]], "test": [("0",)]})
    rows = memory_labels.understand({"train": np.array([[1, 1], [0, 0], [0, 1]]), "test": [[1, 0]]})
    for labels in (lists, rows):
        assert (labels.task, labels.class_names) == ("multilabel", ("0", "1"))
        assert labels.targets["train"].tolist() == [[1, 1], [0, 0], [0, 1]]
        assert labels.targets["test"].tolist() == [[1, 0]]
    # The image with the rare class, that with none, and that with the frequent one are balanced apart.
    assert len(set(lists.labels["train"].tolist())) == 3


def test_fractions_and_rows_of_numbers_are_numbers_and_the_task_decides_where_both_would_do():
    assert memory_labels.understand({"train": [0.5, 1.0]}).targets["train"].tolist() == [[0.5], [1.0]]
    pairs = memory_labels.understand({"train": np.array([[1, 2], [3, 4]])})
    assert (pairs.task, pairs.class_names) == ("regression", ("value_1", "value_2"))
    whole = memory_labels.understand({"train": [1, 2, 3]}, "regression")
    assert (whole.task, whole.class_names, whole.labels["train"].tolist()) == (
        "regression",
        ("value",),
        [0, 0, 0],
    )


@pytest.mark.parametrize(
    ("labels", "task", "message"),
    [
        (["a", "a"], "auto", "at least two classes"),
        (["a", ""], "auto", "label of an image is missing"),
        ([1.0, np.nan], "classification", "label of an image is missing"),
        ([1.5, np.nan], "auto", "number of an image is missing"),
        (["a", "b"], "regression", "takes numbers"),
        ([["a", "b"], ["c"]], "classification", "one label per image, and lists"),
        (np.zeros((2, 2, 2)), "auto", "labels must be"),
        ([1, 2], "multilabel", "rows of 0 and 1"),
    ],
)
def test_labels_that_do_not_go_with_the_task_are_refused(labels, task, message):
    with pytest.raises(UserError, match=message):
        memory_labels.understand({"train": labels}, task)


def test_a_class_of_no_training_image_and_other_widths_are_refused():
    with pytest.raises(UserError, match="test: the label c is of no training image"):
        memory_labels.understand({"train": [["a"], ["b"]], "test": [["c"]]})
    with pytest.raises(UserError, match="give all of them the same"):
        memory_labels.understand({"train": np.eye(3), "test": np.eye(2)})
