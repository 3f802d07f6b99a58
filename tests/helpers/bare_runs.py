"""Runs whose tests are about something else do without what they make beside: drawn figures and a probe.

Every figure is built, and an empty one is written in its place. A module with ``DRAWS_FIGURES = True`` or
``PROBES_FEATURES = True`` has them.
"""

import functools
from collections.abc import Iterator

import pytest

from finetune_jax.reports import pages, study_report
from finetune_jax.reports.figures import canvas
from finetune_jax.runs import frozen_probe


@functools.cache
def _empty(format: canvas.Format, text: bool, transparent: bool) -> bytes:
    from matplotlib.figure import Figure

    return canvas.encode(Figure(figsize=(1, 1)), format, text=text, transparent=transparent)


def _placeholder(
    figure: object, format: canvas.Format = "png", *, text: bool = False, transparent: bool = False
) -> bytes:
    return _empty(format, text, transparent)


@pytest.fixture(autouse=True, scope="module")
def bare_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drawing is a third of the time of a run of a second, the probe is three more programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "DRAWS_FIGURES", False):
            patch.setattr(pages, "encode", _placeholder)
            patch.setattr(study_report, "encode", _placeholder)
        if not getattr(request.module, "PROBES_FEATURES", False):
            patch.setattr(frozen_probe, "has_one", lambda program: False)
        yield
