"""The documentation builds without a warning, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import finetune_jax

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "BUILD.md")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr


def test_every_public_module_has_a_reference_page() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "reference").glob("*.md")}
    modules = set(dir(finetune_jax)) - {*finetune_jax._FUNCTIONS, "__version__"}
    assert modules <= pages


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_of_the_repository_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), f"{page} links to {target}"
