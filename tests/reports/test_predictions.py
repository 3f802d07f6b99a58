"""Predicted labels as text that other programs read."""

import csv
import io
import json

import numpy as np
import pytest

from finetune_jax.reports import predictions
from finetune_jax.reports.predictions import Prediction

ODD = Prediction('a "quoted", name.jpg', ["été", "x,y"], np.array([0.6666667, 0.25], np.float32))


@pytest.mark.parametrize("top", [1, 2])
def test_csv_has_a_header_and_a_row_per_image(top: int) -> None:
    kept = Prediction(ODD.image, ODD.labels[:top], ODD.probabilities[:top])
    text = predictions.header("csv", top) + predictions.line(kept, "csv") * 2
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2
    assert list(rows[0])[:3] == ["image", "label", "probability"]
    assert (rows[0]["image"], rows[0]["label"], rows[0]["probability"]) == (ODD.image, "été", "0.666667")
    assert ("label_2" in rows[0]) == (top == 2)


def test_json_is_an_object_per_line() -> None:
    assert predictions.header("json", 2) == ""
    value = json.loads(predictions.line(ODD, "json"))
    assert (value["image"], value["label"], value["probability"]) == (ODD.image, "été", 0.666667)
    assert value["top"] == [["été", 0.666667], ["x,y", 0.25]]


def test_a_newline_in_a_name_breaks_no_table() -> None:
    line = predictions.line(Prediction("a\nb\t.jpg", ["cat"], [1.0]), "table")
    assert line.count("\n") == 1
    assert line.count("\t") == 1
