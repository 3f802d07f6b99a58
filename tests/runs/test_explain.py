"""Which part of a photo the network sees, and so where its heat maps lie."""

import numpy as np
import pytest

from finetune_jax.data.decode import Preprocessing, preprocess
from finetune_jax.runs.explain import seen_part


@pytest.mark.parametrize(
    ("prepared", "height", "width"),
    [
        (Preprocessing(64, 64), 300, 500),
        (Preprocessing(56, 64), 300, 500),
        (Preprocessing(64, 64, "shorter_side"), 300, 500),
        (Preprocessing(56, 64, "shorter_side"), 500, 300),
    ],
)
def test_the_part_is_what_preparing_leaves(prepared, height, width):
    """Of a photo whose colours say where they are."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 255, width)
    photo[..., 1] = np.linspace(0, 255, height)[:, None]
    seen = preprocess(photo, prepared) / 255
    left, top, right, bottom = seen_part(prepared, height, width)
    middle = prepared.image_size // 2
    assert seen[middle, 0, 0] == pytest.approx(left, abs=0.02)
    assert seen[middle, -1, 0] == pytest.approx(right, abs=0.02)
    assert seen[0, middle, 1] == pytest.approx(top, abs=0.02)
    assert seen[-1, middle, 1] == pytest.approx(bottom, abs=0.02)
