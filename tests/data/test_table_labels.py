"""What the labels of a table are, and one sentence where they are nothing whole."""

import numpy as np
import pytest

from finetune_jax.data import table_labels
from finetune_jax.data.table_labels import Cells
from finetune_jax.errors import UserError


def read(values, columns=("label",), *, task="auto", delimiter="", splits=None):
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    cells = {"train": Cells(range(2, 2 + len(rows)), rows)}
    if splits:
        cells |= {split: Cells([90], [(value,)]) for split, value in splits.items()}
    return table_labels.read(
        cells, columns, task=task, delimiter=delimiter, open_classes=False, shown="t.csv"
    )


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["cat", "dog"], "classification"),
        (["0", "1", "2"], "classification"),
        (["1.0", "2.0"], "classification"),
        (["1.5", "2"], "regression"),
        (["cat|dog", "dog"], "multilabel"),
        (["cat;dog", "dog;bird", "bird"], "multilabel"),
        (["fir | cone", "oak"], "classification"),  # no part comes again
    ],
)
def test_the_task_is_told_by_the_labels(values, task):
    assert read(values).task == task


def test_lists_of_labels_become_columns_of_zero_and_one():
    found = read(["dog|cat", "dog", "", "bird|dog"], task="multilabel")
    assert found.class_names == ("bird", "cat", "dog")
    np.testing.assert_array_equal(found.targets["train"], [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
    # Splits are balanced by the rarest class of an image.
    assert [found.class_names[i] for i in found.labels["train"][[0, 1, 3]]] == ["cat", "dog", "bird"]
    assert any("1 images have none" in note for note in found.notes)
    with_comma = read(["a+b", "b"], task="multilabel", delimiter="+")
    assert with_comma.class_names == ("a", "b")


def test_columns_of_zero_and_one_are_classes_and_columns_of_numbers_are_numbers():
    flags = read([("1", "no"), ("0", "yes")], ("cat", "dog"))
    assert (flags.task, flags.class_names) == ("multilabel", ("cat", "dog"))
    np.testing.assert_array_equal(flags.targets["train"], [[1, 0], [0, 1]])
    numbers = read([("1", "7"), ("0.5", "-2e3")], ("x", "y"))
    assert (numbers.task, numbers.class_names) == ("regression", ("x", "y"))
    np.testing.assert_array_equal(numbers.targets["train"], np.float32([[1, 7], [0.5, -2000]]))


@pytest.mark.parametrize(
    ("values", "settings", "sentence"),
    [
        (["cat", "", "dog"], {}, "row 3 has no label"),
        (["1.5", "nan", "2"], {}, "row 3 has no label but nan in the column label"),
        (
            ["cat", "3", "dog"],
            {},
            "the label of row 3 is the number 3 and that of row 2 cat; correct the labels, or give ",
        ),
        (["a|b", "", "b"], {}, "row 3 has no label.*or give --task=multilabel"),
        (["1", "two"], {"task": "regression"}, "row 3 has no label but two in the column label"),
        (
            ["a|b", "b"],
            {"splits": {"test": "c"}},
            "row 90 of the test split has the label c, which no training",
        ),
        (
            [("1", "2"), ("0", "1")],
            {"columns": ("x", "y"), "task": "multilabel"},
            "row 2 has 2 in the column y",
        ),
        ([("1", "b"), ("2", "c")], {"columns": ("x", "y")}, "row 2 has the label b; several label columns"),
        ([("1", "b")], {"columns": ("x", "y"), "task": "classification"}, "takes one label column"),
        ([("1", "0"), ("1", "0")], {"columns": ("x", "y")}, "no training image has the label y"),
    ],
)
def test_labels_that_are_missing_or_of_mixed_kinds_are_one_sentence(values, settings, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        read(values, **settings)
    assert "\n" not in str(raised.value)


def test_names_that_look_like_gaps_are_classes_where_the_task_is_given():
    assert read(["na", "dog"], task="classification").class_names == ("dog", "na")
    assert read(["3", "dog"], task="classification").class_names == ("3", "dog")


def test_several_columns_may_be_named_by_a_pattern():
    header = ["file", "is_cat", "is_dog", "isle"]
    assert table_labels.chosen_columns("is_*", header, ["file"]) == ["is_cat", "is_dog"]
    assert table_labels.chosen_columns("isle", header, []) == ["isle"]
    assert table_labels.chosen_columns("none", header, []) == []
