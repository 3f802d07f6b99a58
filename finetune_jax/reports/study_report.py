"""What people read of a study, in every form: text, Markdown, LaTeX, a page, and figures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune_jax.reports import pages, tables
from finetune_jax.reports.figures.canvas import Format, encode
from finetune_jax.reports.tables import Files, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of a report.

    Attributes:
        name: of its file, without suffix.
        caption: a sentence that explains it.
        figure: of one of the functions ``figures.draw_…``.
    """

    name: str
    caption: str
    figure: "Figure"


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """What a study has come to.

    Attributes:
        title: of the page.
        parts: paragraphs and tables in the order in which they are read.
        pictures: its figures.
        data: files for programs, such as ``results.json``.
        name: of the files, without suffix.
    """

    title: str
    parts: Sequence[str | Table]
    pictures: Sequence[Picture] = ()
    data: Files = dataclasses.field(default_factory=dict)
    name: str = "results"


def text(report: StudyReport) -> str:
    """The report for a terminal."""
    return "\n\n".join(part if isinstance(part, str) else tables.as_text(part) for part in report.parts)


def markdown(report: StudyReport) -> str:
    """The report as GitHub-flavoured Markdown."""
    parts = [part if isinstance(part, str) else tables.as_markdown(part) for part in report.parts]
    return "\n\n".join([f"# {report.title}", *parts]) + "\n"


def latex(report: StudyReport) -> str:
    r"""The report for ``\input`` in a paper; it needs the package booktabs."""
    parts = [
        tables.latex_text(part) if isinstance(part, str) else tables.as_latex(part) for part in report.parts
    ]
    return "\n\n".join([r"% needs \usepackage{booktabs}", *parts]) + "\n"


def files(
    report: StudyReport,
    *,
    command: str = "",
    runs: Mapping[str, str] | None = None,
    formats: Sequence[Format] = ("png",),
) -> Files:
    """All files of a report, by name.

    Args:
        report: of any module of this package.
        command: that made it, shown on the page.
        runs: name of each run to where its page lies, relative to the report.
        formats: in which figures are written beside the page.
    """
    page = pages.render(
        "study.html",
        title=report.title,
        parts=report.parts,
        pictures=[(picture.caption, pages.inline(picture.figure)) for picture in report.pictures],
        runs=runs or {},
        command=command,
        files=[f"{report.name}.{suffix}" for suffix in ("txt", "md", "tex")]
        + list(report.data)
        + [f"{picture.name}.{format}" for picture in report.pictures for format in formats],
    )
    return {
        **report.data,
        f"{report.name}.txt": text(report) + "\n",
        f"{report.name}.md": markdown(report),
        f"{report.name}.tex": latex(report),
        **pictures_as_files(report.pictures, formats),
        "report.html": page,
    }


def pictures_as_files(pictures: Sequence[Picture], formats: Sequence[Format]) -> Files:
    """Each picture in each format."""
    return {
        f"{picture.name}.{format}": encode(picture.figure, format)
        for picture in pictures
        for format in formats
    }
