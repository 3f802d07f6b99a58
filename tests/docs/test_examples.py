"""The Python code of the documentation runs as it is printed."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = (
    "labels",
    "larger_networks",
    "own_code",
    "papers",
    "photographs",
    "python",
    "rates",
    "recipes",
    "table_to_use",
)
PAGES = ("README.md", *(f"docs/guides/{name}.md" for name in GUIDES))


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "docs/notebooks").glob("*.ipynb")))
def test_a_notebook_has_the_text_and_the_code_of_its_guide(name: str) -> None:
    """So its code runs, as that of the guide does."""
    path = ROOT / "docs/notebooks/make.py"
    text_of = runpy.run_path(str(path))["text"]
    page = (ROOT / f"docs/guides/{name}.md").read_text()
    notebook = path.with_name(f"{name}.ipynb").read_text()
    assert f"docs/guides/{name}.md" in PAGES
    assert notebook == text_of(page), f"run: python docs/notebooks/make.py docs/guides/{name}.md"
    cells = json.loads(notebook)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip() for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)]
