"""What all binaries share: flags made from config dataclasses, start of JAX, errors without tracebacks.

Nothing here imports JAX before the flags are parsed, so ``--help`` answers at once.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags, logging

from finetune_jax.commands import interruption, on_stores, parsing
from finetune_jax.config.declaration import Setting, declared
from finetune_jax.config.invocation import as_started
from finetune_jax.config.settings import LOCAL_SETTINGS, MachineConfig
from finetune_jax.devices import slurm
from finetune_jax.errors import Stopped, UserError, message
from finetune_jax.files import working_copies

Config = TypeVar("Config")

# What the command does at its end, however it ends: give back locked directories, remove empty ones.
_at_end = contextlib.ExitStack()

_job: Any = None
"""The ``cluster.Job`` of this process, where it is one of several."""

SETTINGS: dict[str, Setting] = {}
"""Settings that have a flag in this process, by its name."""


def define_flags(config_class: type, *, without: Collection[str] = (), **defaults: Any) -> None:
    """Define one flag per field of a config dataclass.

    Args:
        config_class: a dataclass made with ``finetune_jax.config.setting``.
        without: fields that keep their defaults and get no flag.
        **defaults: other defaults than the dataclass has.
    """
    for name, setting in declared(config_class).items():
        if name in without:
            continue
        default, text = defaults.get(name, setting.default), setting.text
        if setting.choices:
            flags.DEFINE_enum(name, default, setting.choices, text)
        elif setting.words:
            flags.DEFINE(_NumberOrWord(setting.words), name, default, text)
        elif default is None:
            flags.DEFINE_float(name, None, text)
        elif isinstance(default, bool):
            flags.DEFINE_bool(name, default, text)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, text)
        elif isinstance(default, float):
            flags.DEFINE_float(name, default, text)
        elif isinstance(default, tuple):
            flags.DEFINE_list(name, [str(item) for item in default], text)
        else:
            flags.DEFINE_string(name, default, text)
        SETTINGS[name] = setting


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


def typed_settings() -> dict[str, Any]:
    """``{setting: value}`` of the flags that were given."""
    return {name: flags.FLAGS[name].value for name in SETTINGS if flags.FLAGS[name].present}


def read_flags(
    config_class: type[Config], base: Config | None = None, *, without: Collection[str] = ()
) -> Config:
    """The config the parsed flags describe.

    Args:
        config_class: the class the flags were defined from.
        base: what flags not given on the command line take their values from.
        without: fields that are those of the base, whatever flags there are of their names.

    Raises:
        UserError: a value out of range, or flags that contradict each other.
    """
    from finetune_jax.config.checks import both_given, validate
    from finetune_jax.config.choices import ALTERNATIVES

    values: dict[str, Any] = {}
    settings = declared(config_class)
    for name, setting in settings.items():
        if name in without:
            values[name] = setting.default if base is None else getattr(base, name)
            continue
        if name not in flags.FLAGS:
            continue
        if base is not None and not flags.FLAGS[name].present:
            values[name] = getattr(base, name)
        else:
            values[name] = _value(setting, getattr(flags.FLAGS, name))
    for plain, effective in ALTERNATIVES:
        if effective in values and flags.FLAGS[effective].present:
            if flags.FLAGS[plain].present:
                raise UserError(both_given(plain, effective))
            values[plain] = settings[plain].default
    if base is not None:
        # What only the base has set must not contradict what was typed.
        idle = [
            name
            for name in values
            if name not in without and not flags.FLAGS[name].present
            if settings[name].unmet(values) is not None
        ]
        values |= {name: settings[name].default for name in idle}
    config = config_class(**values)
    validate(config)
    return config


def _value(setting: Setting, typed: Any) -> Any:
    """The value of a setting that was typed as the value of its flag."""
    if isinstance(typed, list):
        if setting.type == tuple[str, ...]:
            return tuple(setting.spelling(item) if setting.spelling else item for item in typed)
        try:
            return tuple(map(int, typed))
        except ValueError:
            raise UserError(f"--{setting.name}={','.join(typed)}: give whole numbers") from None
    return setting.spelling(typed) if setting.spelling and isinstance(typed, str) else typed


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


def start_jax(*, independent: bool = False) -> Any:
    """Join the cluster, set the compilation cache, and return the ``Replicas`` of this job.

    Args:
        independent: whether several processes may run this command at once without knowing of each other.

    Raises:
        UserError: the process flags contradict each other, or the processes of the job do.
    """
    global _job
    machine = read_flags(MachineConfig)
    if not machine.coordinator and (machine.process_count > 1 or machine.process_index):
        raise UserError("--process_count and --process_index need --coordinator")
    if not (machine.coordinator or independent) and (reason := slurm.lonely_task(os.environ)):
        raise UserError(reason)
    if machine.coordinator:
        # Before jaxlib is loaded. What ends a job is told in one sentence, not by the log of XLA.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    from finetune_jax.devices import agreement, cluster
    from finetune_jax.devices.replicas import local_replicas, prepare_backend

    prepare_backend(machine.virtual_devices)
    if machine.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(machine.compilation_cache))
        # A start runs dozens of tiny programs, each of which loads faster than it compiles.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if machine.coordinator:
        _job = cluster.join(
            machine.coordinator,
            machine.process_count,
            machine.process_index,
            peer_timeout=machine.peer_timeout,
            stop_timeout=machine.stop_timeout,
        )
        _job.peers.before_leaving = on_stores.leave
        agreement.agree(agreement.code(), "install the same version for all of them")
        agreement.agree(_lasting_flags(), "start all of them with the same command")
    on_stores.begin(_job, _at_end)
    replicas = local_replicas()
    agreement.agree(
        {"number of devices": len(replicas.devices)}, "give every process the same number of devices"
    )
    return replicas


def _lasting_flags() -> dict[str, str]:
    """All flags of the command but those that may differ between the processes of a job."""
    values = flags.FLAGS.flags_by_module_dict()
    defined = {flag.name: flag for module, its in values.items() if "finetune_jax" in module for flag in its}
    defined |= {name: flags.FLAGS[name] for name in SETTINGS}
    local = {*LOCAL_SETTINGS, *declared(MachineConfig)}
    return {
        f"--{name}": working_copies.named(str(flag.value))
        for name, flag in defined.items()
        if name not in local
    }


def start_study(workdir: str, kind: str, *, shared: bool = False) -> Any:
    """:func:`start_jax`, and the ``Runs`` of a study in ``workdir``, or in a new directory below ``runs/``.

    Args:
        workdir: of the study; may be empty.
        kind: what the new directory is called.
        shared: whether several processes may work on the study; otherwise it is locked until the command ends.

    Raises:
        UserError: another process works on the study.
    """
    root = workdir or os.path.join("runs", time.strftime(f"{kind}-%Y%m%d-%H%M%S"))
    replicas = start_jax(independent=shared)
    show_devices(replicas)
    from pathlib import Path

    from finetune_jax.files import lock
    from finetune_jax.studies.runs import Runs

    path = Path(root).expanduser()
    if replicas.is_primary and not shared:
        _at_end.enter_context(lock.locked(path))
    return Runs(path, replicas)


def show_devices(replicas: Any) -> None:
    """Print what a run runs on."""
    if replicas.is_primary:
        print(replicas.description, file=sys.stderr)


def new_workdir(data_set: str, method: str = "standard") -> str:
    """Make and name a directory below ``runs/`` for a run whose ``--workdir`` is empty.

    It is taken back at the end of the command where nothing was written to it.

    Args:
        data_set: as in ``--dataset``.
        method: of the run.

    Returns:
        Such as ``runs/photos-1``, or ``runs/photos-autolr-2`` where the first is there already.

    Raises:
        UserError: several processes need one that all of them know, or it cannot be made.
    """
    if read_flags(MachineConfig).coordinator:
        raise UserError("--workdir is empty; name a directory that all processes of --coordinator share")
    words = [os.path.basename(data_set.rstrip("/")).rpartition(":")[2] or "run"]
    words += [method] if method != "standard" else []
    number = 1
    while True:
        workdir = os.path.join("runs", "-".join([*words, str(number)]))
        try:
            os.makedirs(workdir)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(
                f"{os.path.abspath(workdir)} cannot be created: {error.strerror}; give another directory with --workdir"
            ) from error
    _at_end.callback(_remove_if_empty, os.path.abspath(workdir))
    return workdir


def _remove_if_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def show_result(summary: Mapping[str, Any], workdir: str) -> None:
    """Print the result of a run, where it is kept, and the commands to go on with."""
    from finetune_jax.reports import tables
    from finetune_jax.runs import about

    print(working_copies.named(f"{tables.result_line(summary)}\nrun directory: {workdir}"))
    for line in about.last_lines(Path(workdir), summary["protocol"]):
        print(working_copies.named(as_started(line)))


def run(main: Callable[..., int], *, positional: bool = False) -> None:
    """Parse the flags and call ``main``; bad input ends with one sentence and status 1.

    A run that was asked to stop ends with 143 (SIGTERM) or 130 (Ctrl-C) and says how to go on.

    Args:
        main: gets the positional arguments if there may be any, and returns the exit status.
        positional: whether there may be any.
    """

    interruption.watch()
    module = sys.modules[main.__module__]
    name = main.__module__.rpartition(".")[2]

    def parse(arguments: list[str]) -> list[str]:
        # absl adds its flags of help only now.
        try:
            words = parsing.parse(arguments, name, module.__doc__ or "", SETTINGS)
            return on_stores.with_copies(name, words, read_flags(MachineConfig))
        except UserError as error:
            print(f"error: {as_started(message(error))}", file=sys.stderr)
            sys.exit(1)

    def outcome(arguments: list[str]) -> tuple[int, str]:
        """Exit status, and the last line of an end before the time."""
        try:
            if len(arguments) > 1 and not positional:
                raise UserError(f"{' '.join(arguments[1:])} is no flag; see finetune-jax {name} --help")
            with _at_end:
                return (main(arguments[1:]) if positional else main()), ""
        except UserError as error:
            return 1, f"error: {as_started(message(error))}"
        except Stopped as stopped:
            return stopped.status, message(stopped)
        except BrokenPipeError:
            parsing.forget_output()
            return 1, ""
        except KeyboardInterrupt:
            return interruption.STATUS, "interrupted; what was saved before is kept"
        except Exception as error:
            if _job is None:
                raise
            if type(error).__name__ == "JaxRuntimeError":
                _job.await_verdict()
            traceback.print_exc()
            return 1, f"error: {type(error).__name__}: {message(error)}"

    def guarded(arguments: list[str]) -> int:
        status, text = outcome(arguments)
        if text:
            text = working_copies.named(text)
            print(text, file=sys.stderr, flush=True)
        if _job is not None:
            if text:
                _job.fail(text.removeprefix("error: "), status)
            _job.finish()
        if status == interruption.STATUS:
            interruption.end()
        return status

    # Orbax and JAX report their own doings at INFO and WARNING, which says nothing to a user.
    logging.set_verbosity(logging.ERROR)
    app.run(guarded, flags_parser=parse)


define_flags(MachineConfig)
