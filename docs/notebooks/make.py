"""Write the notebook of a guide: its text as Markdown cells, its Python code as code cells.

python docs/notebooks/make.py docs/guides/python.md
"""

import json
import re
import sys
from pathlib import Path

FENCE = re.compile(r"```python\n(.*?)```\n?", re.DOTALL)


def notebook(page: str) -> dict[str, object]:
    """A page as a notebook of format 4.5."""
    cells: list[dict[str, object]] = []
    # Text and code alternate, beginning with text.
    for number, part in enumerate(FENCE.split(page)):
        text = part.strip("\n")
        if not text:
            continue
        cell: dict[str, object] = {
            "id": f"cell-{len(cells)}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
        }
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(dict(sorted(cell.items())))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def text(page: str) -> str:
    """The content of the notebook's file."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        guide = Path(name)
        Path(__file__).with_name(f"{guide.stem}.ipynb").write_text(text(guide.read_text()))
