"""Runs whose tests are not about pictures: every figure is built, and an empty one is written in its place."""

import functools
from collections.abc import Iterator

import pytest

from finetune_jax.reports import pages, study_report
from finetune_jax.reports.figures import canvas


@functools.cache
def _empty(format: canvas.Format, text: bool, transparent: bool) -> bytes:
    from matplotlib.figure import Figure

    return canvas.encode(Figure(figsize=(1, 1)), format, text=text, transparent=transparent)


def _placeholder(
    figure: object, format: canvas.Format = "png", *, text: bool = False, transparent: bool = False
) -> bytes:
    return _empty(format, text, transparent)


@pytest.fixture(autouse=True, scope="module")
def figures_are_placeholders(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing is a third of the time of a run of a second; a module with ``DRAWS_FIGURES = True`` keeps it."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWS_FIGURES", False):
            patch.setattr(pages, "encode", _placeholder)
            patch.setattr(study_report, "encode", _placeholder)
        yield
