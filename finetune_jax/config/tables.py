"""The settings as Markdown tables, from which the page of the documentation is made.

python -m finetune_jax.config.tables > docs/reference/settings.md
"""

from collections.abc import Iterable

from finetune_jax.config import groups, methods
from finetune_jax.config.declaration import Setting, declared, written
from finetune_jax.config.settings import FinetuneConfig, MachineConfig

_HEAD = """\
# Settings

Every setting is a flag of `finetune-jax finetune`; other commands have those that they can use. `--help` shows the
most important ones, `--help=GROUP` those of a group. This page is made from the declarations in
`finetune_jax/config/`, by `python -m finetune_jax.config.tables > docs/reference/settings.md`.
"""


def page() -> str:
    """All settings of a run and of the process it is trained by, one table per group, and the methods."""
    settings = [*declared(FinetuneConfig).values(), *declared(MachineConfig).values()]
    rows = [
        f"| `{name}` | {_cell(method.text)} | {_recipe(method)} |" for name, method in methods.BY_NAME.items()
    ]
    table = ["| method | what is trained | defaults of its paper |", "|---|---|---|", *rows]
    return "\n".join([_HEAD, markdown(settings), "## Methods", "", *table, ""])


def markdown(settings: Iterable[Setting]) -> str:
    """Settings as Markdown, a heading and a table for each group that has some, in the order of ``--help``."""
    settings = list(settings)
    lines = []
    for group in groups.ALL:
        members = [setting for setting in settings if setting.group == group]
        if members:
            lines += [f"## {group.title}", "", f"`--help={group.name}`", ""]
            lines += ["| flag | default | values | what it does |", "|---|---|---|---|"]
            lines += [_row(setting) for setting in members]
            lines.append("")
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    default = written(setting.default)
    shown = f"`{default}`" if default else ""
    return f"| `--{setting.name}` | {shown} | {_cell(_values(setting))} | {_cell(_text(setting))} |"


def _values(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    kinds = {bool: "`true`, `false`", str: "text", tuple: "list"}
    values = kinds.get(type(setting.default), "a number")
    if setting.range:
        values = setting.range.words
    return " or ".join([values, *(f"`{word}`" for word in setting.words)])


def _text(setting: Setting) -> str:
    lockstep = "May differ between runs that are trained in lockstep." if setting.runtime else ""
    return " ".join(filter(None, [setting.text, setting.needs, lockstep]))


def _recipe(method: methods.Method) -> str:
    return ", ".join(f"`--{name}={written(value)}`" for name, value in method.recipe.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
