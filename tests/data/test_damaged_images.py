"""A short version of ``benchmarks/damaged_images.py``: a result that is right, or one sentence, for any damage."""

import numpy as np
import pytest

from benchmarks import damaged_images
from finetune_jax.data import digests


@pytest.mark.parametrize(
    ("kind", "count"), [("images", 400), ("indices", 25), ("caches", 40), ("records", 40)]
)
@pytest.mark.filterwarnings("ignore")
def test_damage_gives_the_right_result_or_one_sentence(kind, count, tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "RACY_NS", 0)
    monkeypatch.setattr(damaged_images.time, "sleep", lambda seconds: None)
    arguments = (count,) if kind in ("images",) else (count, tmp_path)
    counts, wrong, longest = damaged_images.outcomes(
        getattr(damaged_images, kind)(np.random.default_rng(7), *arguments)
    )
    assert wrong == []
    assert counts.total() == count
    assert counts["result"] > 0
    assert longest < 10
