"""What all studies do: go on with what they began with, and at their end write and print the report."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from finetune_jax.errors import UserError
from finetune_jax.files import working_copies

if TYPE_CHECKING:
    from finetune_jax.reports.figures import Format
    from finetune_jax.reports.study_report import StudyReport
    from finetune_jax.studies.runs import Runs

_FORMATS = ("png", "svg", "pdf")


def define_flags() -> None:
    """Define ``--figures``, where the settings of a run do not have it."""
    if "figures" not in flags.FLAGS:
        flags.DEFINE_list(
            "figures", ["png"], "Formats in which figures are written beside the page: png, svg, pdf."
        )


def starting_version(workdir: str) -> int:
    """Of the values that the flags of a study start from: one that goes on has those that its runs began with.

    Args:
        workdir: of the study, which need not be there; may be empty.
    """
    from finetune_jax.config.named_recipes import VERSION
    from finetune_jax.files.run_directory import RunDirectory

    runs = Path(workdir).expanduser() / "runs"
    first = next(runs.glob("**/flags.json"), None) if workdir else None
    return VERSION if first is None else RunDirectory(first.parent).starting_version or VERSION


def formats() -> "tuple[Format, ...]":
    """The formats of ``--figures``.

    Raises:
        UserError: one is not known.
    """
    names = tuple(flags.FLAGS.figures)
    if unknown := [name for name in names if name not in _FORMATS]:
        raise UserError(f"--figures={','.join(names)}: {unknown[0]} is no format; give some of png, svg, pdf")
    return names


def finish(report: "StudyReport", runs: "Runs", command: str) -> None:
    """Write a report beside the runs of a study, and print its text.

    Args:
        report: of the study.
        runs: of the study.
        command: its name.

    Raises:
        UserError: a file cannot be written, or a format of figures is not known.
    """
    from finetune_jax.reports import study_report

    line = f"finetune-jax {command} {shlex.join(sys.argv[1:])}".strip()
    files = study_report.files(report, command=line, runs=runs.pages(), formats=formats())
    runs.write_files(files)
    if runs.is_primary:
        where = working_copies.named(f"study: {runs.root}\nreport: {runs.root / 'report.html'}")
        print(f"\n{study_report.text(report)}\n\n{where}")
