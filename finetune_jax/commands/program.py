"""The program ``finetune-jax NAME --flags…``: one command by its name."""

import ast
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

from finetune_jax import commands
from finetune_jax.commands import command_line, parsing
from finetune_jax.commands.slips import unknown_command

_SHARED = (
    "command_line",
    "help",
    "interruption",
    "on_stores",
    "parsing",
    "program",
    "slips",
    "study_output",
    "trained",
    "web",
)
_USUAL = ("demo", "check_data", "finetune", "predict", "evaluate", "app")
"""The commands that are needed first, in that order; all others follow in alphabetical order."""


def names() -> tuple[str, ...]:
    """Names of all commands, the usual ones first."""
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)} - set(_SHARED)
    return (*(name for name in _USUAL if name in modules), *sorted(modules - set(_USUAL)))


def usage() -> str:
    """One line per command: its name and what it does."""
    lines = [f"  {name:<13}{_title(name)}" for name in names()]
    return "\n".join(
        ["usage: finetune-jax NAME --FLAG=VALUE …   (finetune-jax NAME --help: its flags)", *lines, ""]
    )


def _title(name: str) -> str:
    # The module itself is not imported: it would define its flags.
    source = Path(commands.__path__[0], f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def run(name: str) -> None:
    """Run a command on the flags of ``sys.argv``; ends the process with its exit status."""
    command = importlib.import_module(f"{commands.__name__}.{name}").main
    command_line.run(command, positional=bool(inspect.signature(command).parameters))


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        parsing.show(usage())
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name not in names():
        print(f"error: {unknown_command(name, names())}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"finetune-jax {name}", *arguments[1:]]
    run(name)


if __name__ == "__main__":
    main()
