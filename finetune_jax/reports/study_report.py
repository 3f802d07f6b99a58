"""What people read of a study, in every form: text, Markdown, LaTeX, a page, and figures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
class Command:
    """A line to be typed.

    Attributes:
        line: as it is typed.
    """

    line: str


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """What a study has come to.

    Attributes:
        title: of the page.
        parts: paragraphs, commands and tables in the order in which they are read.
        pictures: its figures.
        data: files for programs, such as ``results.json``.
        name: of the files, without suffix.
    """

    title: str
    parts: Sequence[str | Command | Table]
    pictures: Sequence[Picture] = ()
    data: Files = dataclasses.field(default_factory=dict)
    name: str = "results"


def text(report: StudyReport) -> str:
    """The report for a terminal."""
    return "\n\n".join(_written(report, str, lambda line: line, tables.as_text))


def markdown(report: StudyReport) -> str:
    """The report as GitHub-flavoured Markdown."""
    parts = _written(report, str, "```bash\n{}\n```".format, tables.as_markdown)
    return "\n\n".join([f"# {report.title}", *parts]) + "\n"


def latex(report: StudyReport) -> str:
    r"""The report for ``\input`` in a paper; it needs the package booktabs."""
    verbatim = "\\begin{{verbatim}}\n{}\n\\end{{verbatim}}".format
    parts = _written(report, tables.latex_text, verbatim, tables.as_latex)
    return "\n\n".join([r"% needs \usepackage{booktabs}", *parts]) + "\n"


def _written(
    report: StudyReport,
    paragraph: Callable[[str], str],
    command: Callable[[str], str],
    table: Callable[[Table], str],
) -> list[str]:
    return [
        paragraph(part)
        if isinstance(part, str)
        else command(part.line)
        if isinstance(part, Command)
        else table(part)
        for part in report.parts
    ]


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
