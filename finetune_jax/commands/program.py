"""The program ``finetune-jax NAME --flags…``: one command by its name."""

import importlib
import inspect
import pkgutil
import sys

from finetune_jax import commands
from finetune_jax.commands import command_line

_SHARED = ("command_line", "program")


def names() -> tuple[str, ...]:
    """Names of all commands, in alphabetical order."""
    modules = pkgutil.iter_modules(commands.__path__)
    return tuple(sorted(module.name for module in modules if module.name not in _SHARED))


def run(name: str) -> None:
    """Run a command on the flags of ``sys.argv``; ends the process with its exit status."""
    command = importlib.import_module(f"{commands.__name__}.{name}").main
    command_line.run(command, positional=bool(inspect.signature(command).parameters))


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(f"usage: finetune-jax NAME --flags…\ncommands: {', '.join(names())}")
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name not in names():
        print(f"error: there is no command {name}; choose {', '.join(names())}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"finetune-jax {name}", *arguments[1:]]
    run(name)


if __name__ == "__main__":
    main()
