"""How the reader of a message starts a command of this package."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

LAUNCHER = "FINETUNE_JAX_LAUNCHER"
"""Environment variable in which ``launch.sh`` leaves its path as it was typed."""

_EXTRAS = re.compile(r'\bpip install "finetune-jax\[([a-z,-]+)\]"')
_COMMAND = re.compile(r"\bfinetune-jax ([a-z_]+)")


def command(
    name: str, *, environment: Mapping[str, str] = os.environ, arguments: Sequence[str] | None = None
) -> str:
    """A command of this package as the reader has started this one.

    Args:
        name: of the command, e.g. ``predict``; flags may follow it.
        environment: of the process.
        arguments: of the process, the program first; None is ``sys.argv``.

    Returns:
        ``./launch.sh predict`` in a checkout, ``python -m experiments.predict`` where that was typed, else
        ``finetune-jax predict``.

    >>> command("predict", environment={LAUNCHER: "../launch.sh"}, arguments=["x"])
    '../launch.sh predict'
    >>> command("predict --top=1", environment={}, arguments=["/home/me/experiments/finetune.py"])
    'python -m experiments.predict --top=1'
    >>> command("predict", environment={}, arguments=["/usr/bin/finetune-jax"])
    'finetune-jax predict'
    """
    if launcher := environment.get(LAUNCHER):
        return f"{launcher} {name}"
    program = (sys.argv if arguments is None else arguments)[:1]
    if program and os.path.basename(os.path.dirname(program[0])) == "experiments":
        return f"python -m experiments.{name}"
    return f"finetune-jax {name}"


def as_started(text: str) -> str:
    """A text in which commands are spelled ``finetune-jax NAME``, with them as :func:`command` spells them.

    Messages of all rooms use that spelling; what prints them calls this function. In a checkout extras are installed
    into its environment, from there.
    """
    if launcher := os.environ.get(LAUNCHER):
        root = os.path.dirname(launcher) or "."
        text = _EXTRAS.sub(
            lambda match: f'{shlex.quote(sys.executable)} -m pip install -e "{root}[{match[1]}]"', text
        )
    return _COMMAND.sub(lambda match: command(match[1]), text)
