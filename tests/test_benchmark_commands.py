"""Commands of benchmarks can be typed as documents and docstrings name them; settings that they train with exist.

What the scripts call and replace in the package, the type checker compares; flags and settings it does not see.
"""

import argparse
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import default_rates, folder_epochs, fresh_head, method_starts, recipes
from finetune_jax.config.declaration import declared
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig, MachineConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.sh"))
MODULES = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
SCRIPTS = sorted(name for name, path in MODULES.items() if '__name__ == "__main__"' in path.read_text())
SETTINGS = declared(FinetuneConfig).keys() | declared(MachineConfig).keys()
# In backticks, or a line of its own; variables of the environment may stand before it.
COMMAND = re.compile(
    r"`(?:\w+=\S+ )*python -m benchmarks\.([^`]*)`|^ *(?:\w+=\S+ )*python -m benchmarks\.(.*)$", re.MULTILINE
)


class Command(NamedTuple):
    """A module of ``benchmarks``, what is typed after it, and the file that names it."""

    module: str
    words: tuple[str, ...]
    file: str


def commands_in(text: str, file: str) -> list[Command]:
    """All that the text names."""
    commands = []
    for match in COMMAND.finditer(text.replace("\\\n", " ")):
        module, *words = shlex.split(match[1] or match[2], comments=True)
        commands.append(Command(module, tuple(words), file))
    assert len(commands) == text.count("python -m benchmarks."), f"{file} names a command in an unknown way"
    return commands


@functools.cache
def commands() -> tuple[Command, ...]:
    files = (*DOCUMENTS, *MODULES.values())
    return tuple(
        command for path in files for command in commands_in(path.read_text(), str(path.relative_to(ROOT)))
    )


class Parsed(Exception):
    """The words of a command were flags and values that its script has, which are the argument."""


def settings_in(values: argparse.Namespace) -> set[str]:
    """Names of the settings of ``finetune`` that a command hands on: of its cases, its runs, or after ``--``."""
    of_cases = [word for case in getattr(values, "case", []) for word in shlex.split(case)[1:]]
    words = [*of_cases, *getattr(values, "settings", []), *getattr(values, "flags", [])]
    return {word.removeprefix("--").partition("=")[0] for word in words if "=" in word}


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_are_typed_as_they_are_named(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only(parser: argparse.ArgumentParser, *words: Any) -> None:
        raise Parsed(parse(parser, *words))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only)
    main = importlib.import_module(f"benchmarks.{script}").main
    named = [command for command in commands() if command.module == script]
    assert named, f"neither documents nor its docstring say how benchmarks.{script} is used"
    for command in named:
        monkeypatch.setattr(sys, "argv", [script, *command.words])
        try:
            main()
        except Parsed as parsed:
            unknown = settings_in(parsed.args[0]) - SETTINGS
            assert not unknown, f"{command.file} names settings that finetune lacks: {unknown}"
            continue
        except SystemExit:
            pytest.fail(f"{command.file} names a command that cannot be typed: {shlex.join(command.words)}")
        pytest.fail(f"benchmarks.{script} does not parse its flags")


def test_modules_that_documents_name_exist() -> None:
    for path in DOCUMENTS:
        missing = set(re.findall(r"\bbenchmarks[./](\w+)", path.read_text())) - MODULES.keys()
        assert not missing, f"{path.relative_to(ROOT)} names modules that benchmarks lacks: {missing}"


@pytest.mark.parametrize(
    ("script", "text", "problem"),
    [
        (
            "host_work",
            "`python -m benchmarks.host_work --steps 3\n--no_such_flag`",
            "a command that cannot be typed",
        ),
        ("start_up", "python -m benchmarks.start_up -- --no_such_flag=3", "settings that finetune lacks"),
        (
            "recipes",
            "python -m benchmarks.recipes --workdir=w \\\n  --case='a b=1'",
            "settings that finetune lacks",
        ),
    ],
)
def test_a_flag_that_is_not_there_is_noticed(
    script: str, text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [command] = commands_in(text, "page.md")
    monkeypatch.setattr(sys.modules[__name__], "commands", lambda: [command])
    with pytest.raises((AssertionError, pytest.fail.Exception), match=rf"page\.md names {problem}"):
        test_commands_are_typed_as_they_are_named(script, monkeypatch)


COMPARED: dict[str, Mapping[str, Any]] = {
    **{f"default_rates, {each.name}": each.settings for each in default_rates.CANDIDATES},
    **{f"fresh_head, {name}": arm for name, arm in fresh_head.ARMS.items()},
    **{f"method_starts, {name}": start for name, start in method_starts.STARTS.items()},
    **{f"recipes, {each.name}": recipes.settings_in(each, 5) for each in recipes.CONTESTANTS},
}


@pytest.mark.parametrize("name", COMPARED)
def test_settings_of_comparisons_exist(name: str) -> None:
    config = changed(FinetuneConfig(), **COMPARED[name])
    for setting, value in COMPARED[name].items():
        kind = type(declared(FinetuneConfig)[setting].default)
        assert isinstance(value, kind) or kind is type(None), f"{setting} is a {kind.__name__}"
        assert getattr(config, setting) == value


def test_flags_of_runs_that_are_measured_exist() -> None:
    sizes = argparse.Namespace(image_size=8, width=0.5, batch=4, epochs=2, bfloat16=True)
    flags = folder_epochs.our_flags(Path("photos"), Path("scratch"), Path("compiled"), sizes)
    assert flags.keys() <= SETTINGS
