"""Workers of a sweep that have directories of their own, and images that are not the same."""

import shutil

import pytest
from photos import write_photos

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.runs import recorded_data


@pytest.mark.parametrize("table", [False, True])
def test_the_digest_of_the_files_changes_with_an_image_and_not_with_their_place(tmp_path, table):
    def digest(place):
        dataset = f"folder:{place}"
        if table:
            file = place.with_suffix(".csv")
            rows = [f"{path.relative_to(place)},{path.parent.name}" for path in sorted(place.rglob("*.png"))]
            file.write_text("\n".join(["image,label", *rows]))
            dataset = f"csv:{file}"
        config = FinetuneConfig(
            dataset=dataset, image_root=str(place) if table else "", cache_dir=str(tmp_path)
        )
        recorded_data._opened_once.cache_clear()
        return recorded_data.digest_of(config)

    first, second = tmp_path / "first", tmp_path / "second"
    write_photos(first)
    shutil.copytree(first, second)
    assert digest(first) == digest(second)
    changed, other = sorted(second.rglob("*.png"))[:2]
    shutil.copy(other, changed)
    assert digest(first) != digest(second)


def test_prepared_data_and_files_that_are_gone_have_no_digest(tmp_path):
    assert recorded_data.digest_of(FinetuneConfig(dataset="digits")) is None
    assert recorded_data.digest_of(FinetuneConfig(dataset=f"folder:{tmp_path / 'nothing'}")) is None
