"""What ``--help`` shows: how a command is called, the settings that matter first, and all others by group."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from finetune_jax.config import groups, methods
from finetune_jax.config.declaration import Setting
from finetune_jax.config.groups import Group
from finetune_jax.config.invocation import as_started, command

COMMAND = Group("command", "Flags of this command alone")
LIBRARY = Group("absl", "Flags of the library that parses flags")
ALL = "all"
_ALIASES = {"cluster": groups.MACHINE.name, "optimiser": groups.OPTIMIZER.name, "full": ALL, "short": ""}


@dataclass(frozen=True)
class Flag:
    """A flag as help shows it.

    Attributes:
        name: without dashes.
        default: as it is typed; empty where there is none.
        text: sentences.
        group: where it is listed.
        important: its place among those that every help begins with, from 1; 0 is not among them.
        boolean: whether ``--name`` alone turns it on.
    """

    name: str
    default: str
    text: str
    group: Group
    important: int = 0
    boolean: bool = False

    def lines(self, width: int) -> list[str]:
        """The flag with its default, and its text below it."""
        title = f"  --{self.name}" + (f"={self.default}" if self.default or not self.boolean else "")
        return [title, *_wrapped(self.text, width, "      ")]


def of_setting(setting: Setting, default: str) -> Flag:
    """The flag of a setting; choices and what gives it an effect are told in its text."""
    return Flag(
        setting.name,
        default,
        " ".join([setting.text, *_notes(setting)]),
        setting.group,
        setting.important,
        isinstance(setting.default, bool),
    )


def overview(name: str, text: str, flags: Sequence[Flag], width: int) -> str:
    """The whole of ``--help``.

    Args:
        name: of the command.
        text: docstring of its module: a title, example calls, and what there is to know.
        flags: all that it has.
        width: of the screen, in characters.
    """
    title, _, rest = as_started(text).replace("``", "").strip().partition("\n")
    lines = [title, "", f"usage: {command(name)} --FLAG=VALUE …", *rest.rstrip().splitlines()]
    command_flags = [flag for flag in flags if flag.group == COMMAND]
    important = sorted((flag for flag in flags if flag.important), key=lambda flag: flag.important)
    for heading, some in (
        (COMMAND.title, command_flags),
        ("The settings that matter first, with their defaults", important),
    ):
        if some:
            lines += ["", f"{heading}:", *_lines(some, width)]
    lines += ["", "All settings by group; --help=GROUP explains those of one, --help=all all of them:"]
    for group in _present(flags):
        if group not in (COMMAND, LIBRARY):
            names = " ".join(f"--{flag.name}" for flag in flags if flag.group == group)
            lines += [f"  {group.name:<12}{group.title}", *_wrapped(names, width, " " * 14)]
    lines += [
        "",
        *_wrapped(
            "--flagfile=FILE reads flags from a file, one per line; --help=absl shows its relatives.",
            width,
            "",
        ),
    ]
    return "\n".join(lines) + "\n"


def topic(name: str, flags: Sequence[Flag], width: int) -> str | None:
    """``--help=NAME``: the flags of a group, a single flag, or all; None where there is none of that name."""
    name = _ALIASES.get(name, name)
    known = {group.name: group for group in _present(flags)}
    if name == ALL:
        parts = [_group(group, flags, width) for group in known.values() if group != LIBRARY]
        return "\n".join(parts)
    if name in known:
        return _group(known[name], flags, width)
    single = [flag for flag in flags if flag.name == name.lstrip("-")]
    return "\n".join(_lines(single, width)) + "\n" if single else None


def topics(flags: Sequence[Flag]) -> list[str]:
    """The names that :func:`topic` knows beside those of the flags."""
    return [*(group.name for group in _present(flags)), ALL]


def _present(flags: Sequence[Flag]) -> list[Group]:
    present = {flag.group for flag in flags}
    return [group for group in (COMMAND, *groups.ALL, LIBRARY) if group in present]


def _group(group: Group, flags: Sequence[Flag], width: int) -> str:
    lines = [f"{group.title}:", *_lines([flag for flag in flags if flag.group == group], width)]
    if group == groups.METHOD:
        lines += ["", "Methods:", *_methods(methods.BY_NAME, width)]
    return "\n".join(lines) + "\n"


def _methods(by_name: Mapping[str, methods.Method], width: int) -> list[str]:
    column = max(map(len, by_name)) + 4
    lines = []
    for name, method in by_name.items():
        first, *others = textwrap.wrap(method.text, max(width - column, 20))
        lines += [f"  {name:<{column - 2}}{first}", *(" " * column + other for other in others)]
    return lines


def _lines(flags: Collection[Flag], width: int) -> list[str]:
    return [line for flag in flags for line in flag.lines(width)]


def _notes(setting: Setting) -> list[str]:
    """Sentences on the choices of a setting, and on what gives it an effect."""
    notes = [f"One of {', '.join(setting.choices)}."] if setting.choices else []
    return [*notes, setting.needs] if setting.needs else notes


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    # A flag with its dashes and the parts of a formula stay whole.
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
