"""From the words of a command line to parsed flags, help, or one sentence that says what is wrong."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from finetune_jax.commands import help as help_page
from finetune_jax.commands.slips import unknown_flag
from finetune_jax.config.declaration import Setting, written
from finetune_jax.errors import UserError

_HELP = re.compile(r"--?(help|helpfull|helpshort|h|\?)(=(?P<topic>.*))?")
_TOPIC_OF = {"helpfull": help_page.ALL}
_WIDEST = 100
_NARROWEST = 50


def parse(arguments: Sequence[str], name: str, text: str, settings: Mapping[str, Setting]) -> list[str]:
    """Parse the flags of a command into ``flags.FLAGS``.

    ``--help`` among them prints what it asks for and ends the process with status 0.

    Args:
        arguments: of the process, the program first.
        name: of the command.
        text: docstring of its module.
        settings: of which there are flags; the command may have others beside them.

    Returns:
        The program and the words that are no flags.

    Raises:
        UserError: a flag is not known, is missing or has a value that cannot be read.
    """
    topic = _help_topic(arguments[1:], settings)
    if topic is not None:
        show(_help(topic, name, text, settings))
        sys.exit(0)
    try:
        return flags.FLAGS(list(arguments))
    except flags.UnrecognizedFlagError as error:
        aliases = {setting.name: setting.aliases for setting in settings.values()}
        sentence = unknown_flag(error.flagname, list(flags.FLAGS), aliases)
        raise UserError(f"{sentence} (all flags: finetune-jax {name} --help)") from error
    except (flags.Error, ValueError) as error:
        raise UserError(_sentence(str(error), settings, text)) from error


def show(text: str) -> None:
    """Print a text; a reader that has seen enough of it (``head``, ``less``) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()


def forget_output() -> None:
    """Send what is still to be printed nowhere, after its reader has gone: Python flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help_topic(words: Sequence[str], settings: Mapping[str, Setting]) -> str | None:
    """What help is asked for; empty is the overview, None is no help at all."""
    for index, word in enumerate(words):
        if word == "--":
            break
        if match := _HELP.fullmatch(word):
            if match["topic"] is not None:
                return match["topic"]
            if match[1] in _TOPIC_OF:
                return _TOPIC_OF[match[1]]
            following = words[index + 1 : index + 2]
            return following[0] if following and following[0] in help_page.topics(_flags(settings)) else ""
    return None


def _help(topic: str, name: str, text: str, settings: Mapping[str, Setting]) -> str:
    width = min(max(shutil.get_terminal_size((_WIDEST, 24)).columns, _NARROWEST), _WIDEST)
    known = _flags(settings)
    if not topic:
        return help_page.overview(name, text, known, width)
    page = help_page.topic(topic, known, width)
    if page is None:
        raise UserError(
            f"--help={topic} is neither a flag nor a group; choose {', '.join(help_page.topics(known))}"
        )
    return page


def _flags(settings: Mapping[str, Setting]) -> list[help_page.Flag]:
    """All flags of the process: those of settings in their order, the command's, and those of libraries."""
    values = flags.FLAGS
    known = [
        help_page.of_setting(setting, _written(values[name].default)) for name, setting in settings.items()
    ]
    for module, others in values.flags_by_module_dict().items():
        # A command that is run as ``python -m`` is __main__.
        group = help_page.COMMAND if module.startswith("finetune_jax") else help_page.LIBRARY
        known += [_flag(flag, group) for flag in others if flag.name not in settings]
    return known


def _flag(flag: Any, group: help_page.Group) -> help_page.Flag:
    choices = getattr(flag.parser, "enum_values", None)
    text = flag.help or ""
    if choices:
        # absl writes them in front of the text.
        text = text.removeprefix(f"<{'|'.join(choices)}>: ")
        text = f"{text} One of {', '.join(choices)}."
    return help_page.Flag(flag.name, _written(flag.default), text, group, boolean=bool(flag.boolean))


def _written(default: Any) -> str:
    return "" if default is False else written(default)


def _sentence(message: str, settings: Mapping[str, Setting], text: str) -> str:
    """What a parser of absl says, in words of this package."""
    if match := re.fullmatch(r"flag --(\w+)=None: .* must have a value other than None\.", message):
        name = match[1]
        about = (flags.FLAGS[name].help or "").rstrip(".")
        example = next((line.strip() for line in text.splitlines() if f"--{name}=" in line), "")
        return f"--{name} is missing: {about}" + (f"; e.g. {example}" if example else "")
    if match := re.fullmatch(r"Missing value for flag -*(\w+)", message):
        return f"--{match[1]} needs a value: --{match[1]}=VALUE"
    if match := re.fullmatch(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL):
        return f"--{match[1]}={match[2]}: give {_wanted(match[1], match[3], settings)}"
    return message


def _wanted(name: str, reason: str, settings: Mapping[str, Setting]) -> str:
    """What values a flag takes."""
    parser = flags.FLAGS[name].parser
    if choices := getattr(parser, "enum_values", None):
        return f"one of {', '.join(choices)}"
    if isinstance(parser, flags.BooleanParser):
        return "true or false"
    setting = settings.get(name)
    if setting is not None and setting.words:
        return f"a number or {' or '.join(setting.words)}"
    return {"int": "a whole number", "float": "a number"}.get(parser.flag_type(), reason)
