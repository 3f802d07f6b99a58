"""The page of settings is what the declarations say."""

from pathlib import Path

from finetune_jax.config import tables
from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import FinetuneConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_the_page_of_settings_is_up_to_date():
    assert PAGE.read_text() == tables.page(), (
        "python -m finetune_jax.config.tables > docs/reference/settings.md"
    )


def test_the_page_has_a_row_for_every_setting():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `--")]
    for name in declared(FinetuneConfig):
        assert sum(row.startswith(f"| `--{name}` |") for row in rows) == 1
