"""What all binaries share: flags made from config dataclasses, start of JAX, errors without tracebacks.

Nothing here imports JAX before the flags are parsed, so ``--help`` answers at once.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from absl import app, flags, logging

from finetune_jax.errors import Stopped, UserError

Config = TypeVar("Config")

STOPPED_STATUS = 143
"""Exit status of a run that was asked to stop (SIGTERM) and has saved its state: 128 + 15, as in shells."""

flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, or auto on Slurm and TPU pods; empty runs a single process."
)
flags.DEFINE_integer("process_count", 1, "Number of processes that --coordinator connects.", lower_bound=1)
flags.DEFINE_integer("process_index", 0, "Index of this process, from 0.", lower_bound=0)
flags.DEFINE_integer(
    "virtual_devices", 0, "Simulate this many CPU devices; 0 uses the real ones.", lower_bound=0
)
flags.DEFINE_string(
    "compilation_cache",
    os.path.join("~", ".cache", "finetune_jax", "xla"),
    "Compiled programs are kept here for the next start; empty keeps none.",
)


def define_flags(config_class: type, *, without: Collection[str] = (), **defaults: Any) -> None:
    """Define one flag per field of a config dataclass.

    Args:
        config_class: a dataclass made with ``finetune_jax.config.setting``.
        without: fields that keep their defaults and get no flag.
        **defaults: other defaults than the dataclass has.
    """
    for field in dataclasses.fields(config_class):
        if field.name in without:
            continue
        default = defaults.get(field.name, field.default)
        text, choices = field.metadata["help"], field.metadata["choices"]
        if choices:
            flags.DEFINE_enum(field.name, default, choices, text)
        elif words := field.metadata["words"]:
            flags.DEFINE(_NumberOrWord(words), field.name, default, text)
        elif default is None:
            flags.DEFINE_float(field.name, None, text)
        elif isinstance(default, bool):
            flags.DEFINE_bool(field.name, default, text)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, text)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, default, text)
        elif isinstance(default, tuple):
            flags.DEFINE_list(field.name, [str(item) for item in default], text)
        else:
            flags.DEFINE_string(field.name, default, text)


class _NumberOrWord(flags.ArgumentParser):
    """A float, or one of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.syntactic_help = f"a number or {' or '.join(words)}"

    def parse(self, argument: Any) -> float | str:
        try:
            return argument if argument in self.words else float(argument)
        except ValueError:
            raise ValueError(f"{argument} is not {self.syntactic_help}") from None

    def flag_type(self) -> str:
        return "number or word"


def read_flags(config_class: type[Config], base: Config | None = None) -> Config:
    """The config the parsed flags describe.

    Args:
        config_class: the class the flags were defined from.
        base: what flags not given on the command line take their values from.

    Raises:
        UserError: a value out of range, or flags that contradict each other.
    """
    from finetune_jax.config.checks import both_given, validate
    from finetune_jax.config.choices import ALTERNATIVES

    values: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if field.name not in flags.FLAGS:
            continue
        if base is not None and not flags.FLAGS[field.name].present:
            values[field.name] = getattr(base, field.name)
            continue
        value = getattr(flags.FLAGS, field.name)
        if isinstance(value, list):
            try:
                value = tuple(value if field.type == tuple[str, ...] else map(int, value))
            except ValueError:
                raise UserError(f"--{field.name}={','.join(value)}: give whole numbers") from None
        values[field.name] = value
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    for plain, effective in ALTERNATIVES:
        if effective in values and flags.FLAGS[effective].present:
            if flags.FLAGS[plain].present:
                raise UserError(both_given(plain, effective))
            values[plain] = defaults[plain]
    config = config_class(**values)
    validate(config)
    return config


def refuse(names: Iterable[str], why: str) -> None:
    """Refuse flags that a study sets for each of its runs.

    Raises:
        UserError: one of them is given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} {why}")


def numbers(flag: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """The values of a list flag, ascending.

    Args:
        flag: its name.
        kind: ``int`` or ``float``.

    Raises:
        UserError: there is none, or one is no such number, negative, or there twice.
    """
    texts: list[str] = getattr(flags.FLAGS, flag)
    try:
        values = tuple(sorted(kind(text) for text in texts))
    except ValueError:
        raise UserError(f"--{flag}={','.join(texts)}: give numbers separated by commas") from None
    if not values or values[0] < 0 or len(set(values)) < len(values):
        raise UserError(f"--{flag}={','.join(texts)}: give one or more numbers, none negative, none twice")
    return values


def start_jax() -> Any:
    """Join the cluster, set the compilation cache, and return the ``Replicas`` of this job.

    Raises:
        UserError: the process flags contradict each other.
    """
    import jax

    from finetune_jax.devices.replicas import join_cluster, local_replicas, prepare_backend

    values = flags.FLAGS
    if not values.coordinator and (values.process_count > 1 or values.process_index):
        raise UserError("--process_count and --process_index need --coordinator")
    prepare_backend(values.virtual_devices)
    if values.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(values.compilation_cache))
        # A start runs dozens of tiny programs, each of which loads faster than it compiles.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if values.coordinator:
        join_cluster(values.coordinator, values.process_count, values.process_index)
    return local_replicas()


def start_study(workdir: str, kind: str) -> Any:
    """:func:`start_jax`, and the ``Runs`` of a study in ``workdir``, or in a new directory below ``runs/``.

    Args:
        workdir: of the study; may be empty.
        kind: what the new directory is called.
    """
    root = workdir or os.path.join("runs", time.strftime(f"{kind}-%Y%m%d-%H%M%S"))
    replicas = start_jax()
    from pathlib import Path

    from finetune_jax.studies.runs import Runs

    return Runs(Path(root).expanduser(), replicas)


def run(main: Callable[..., int], *, positional: bool = False) -> None:
    """Parse the flags and call ``main``; bad input ends with one sentence and status 1, SIGTERM with 143.

    Args:
        main: gets the positional arguments if there may be any, and returns the exit status.
        positional: whether there may be any.
    """

    def guarded(arguments: list[str]) -> int:
        try:
            if positional:
                return main(arguments[1:])
            if len(arguments) > 1:
                raise UserError(f"{' '.join(arguments[1:])} is no flag; see --help")
            return main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return STOPPED_STATUS
        except BrokenPipeError:
            # The reader of the output (head, less) has seen enough; nor can Python flush into it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("interrupted; the last checkpoint is intact", file=sys.stderr)
            return 130

    # Orbax and JAX report their own doings at INFO and WARNING, which says nothing to a user.
    logging.set_verbosity(logging.ERROR)
    app.run(guarded)
