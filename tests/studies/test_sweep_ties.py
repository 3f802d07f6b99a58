"""Equal scores of a sweep: the first in the order of the grid wins, whatever was trained when."""

import itertools

import pytest

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.studies.sweeps import sweep
from finetune_jax.studies.sweeps.records import Record
from finetune_jax.studies.sweeps.search import Search

SEARCH = Search(learning_rates=(0.1, 0.01, 0.001), momenta=(0.9,), weight_decays=(0.0,))


def record(index: int, number: int, score: float) -> Record:
    """The point ``index`` of the grid, whose trial got that number after a kill."""
    point = SEARCH.points()[index]
    run = f"{index:04d}-{point}"
    return Record(number, point, "complete", (score,), score, 3, run, None, "here")


@pytest.mark.parametrize("numbers", list(itertools.permutations((0, 1, 12))))
def test_the_order_of_the_grid_decides_between_equals(numbers: tuple[int, ...]) -> None:
    records = [record(index, number, (0.5, 0.7, 0.7)[index]) for index, number in enumerate(numbers)]
    records.sort(key=lambda entry: entry.number)
    found = sweep.result(FinetuneConfig(), SEARCH, (0,), records, lambda name: None)
    assert found["best"]["learning_rate"] == 0.01
    assert [trial["learning_rate"] for trial in found["trials"]] == [0.1, 0.01, 0.001]


def test_a_better_score_wins_whatever_its_place() -> None:
    records = [record(index, index, score) for index, score in enumerate((0.5, 0.7, 0.8))]
    assert sweep.result(FinetuneConfig(), SEARCH, (0,), records, lambda name: None)["best"]["score"] == 0.8
