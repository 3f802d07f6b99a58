"""The page of a run."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.reports import policy_tables, run_figures
from finetune_jax.reports.run_result import RunResult
from finetune_jax.reports.tables import Files, cell, result_line


def files(result: RunResult) -> Files:
    """The report of a run that has ended: ``report.html``, its figures, and the tables of its policy."""
    assert result.summary is not None
    pictures = run_figures.of_run(result)
    page = run_page(
        result.summary, result.flags, result.rows, {picture.caption: picture.png for picture in pictures}
    )
    policy = result.policy
    return {
        **({} if policy is None else policy_tables.files(policy)),
        **{f"{picture.name}.png": picture.png for picture in pictures},
        "report.html": page,
    }


def run_page(
    summary: Mapping[str, Any],
    flags: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    figures: Mapping[str, bytes],
) -> str:
    """A run's report: result, curves, confusion matrix, epochs and flags, one self-contained HTML page.

    Args:
        summary: of ``summary.json``.
        flags: of ``flags.json``.
        rows: of ``metrics.csv``.
        figures: caption to PNG.
    """
    facts = [
        (name.replace("_", " "), cell(value))
        for name, value in summary.items()
        if isinstance(value, int | float | str)
    ]
    facts += [("images", ", ".join(f"{split} {count}" for split, count in summary["images"].items()))]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in summary["notes"])
    pictures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, picture in figures.items()
    )
    title, line = f"{summary['method']} on {summary['dataset']}", result_line(summary)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-size: 13px }} td, th {{ padding: .2rem .7rem; text-align: left }}
tr:nth-child(even) {{ background: #f4f6f8 }} figure {{ margin: 1.5rem 0 }} img {{ max-width: 100% }}
.result {{ font-size: 1.3rem }} .scroll {{ overflow-x: auto }}
</style>
<h1>{html.escape(title)}</h1>
<p class="result">{html.escape(line[0].upper() + line[1:])}</p>
<ul>{notes}</ul>
{pictures}
<h2>Result</h2>{_html_table(("", ""), facts)}
<h2>Epochs</h2><div class="scroll">{_html_table(list(rows[0]), [_short(row) for row in rows])}</div>
<h2>Flags</h2>{_html_table(("flag", "value"), [(f"--{name}", str(value)) for name, value in flags.items()])}
</html>
"""


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _short(row: Mapping[str, str]) -> list[str]:
    return [f"{float(value):.4g}" if "." in value else value for value in row.values()]
