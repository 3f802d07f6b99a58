"""Fine-tunes: one run, or several in lockstep."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from finetune_jax.config import resolution
from finetune_jax.config.checks import validate
from finetune_jax.config.choices import FINDS_RATES
from finetune_jax.config.settings import RUNTIME_SETTINGS, FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, Pruned, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import about, probe_start, rate_search, recorded_data, report, same_run
from finetune_jax.runs import images as run_images
from finetune_jax.runs import program as programs
from finetune_jax.runs import start as run_start
from finetune_jax.runs.chosen_rate import Settings, chosen_settings, refuse_a_guess, settings_of
from finetune_jax.runs.program import Program
from finetune_jax.runs.result import finish
from finetune_jax.training import lockstep, loop, tables, tasks
from finetune_jax.training.plan import AfterEpoch, Plan


class Prepared(NamedTuple):
    """A run that may begin: everything that a mistake in its flags could spoil is built.

    Attributes:
        program: what is compiled, perhaps shared with other runs.
        settings: of the run.
        plan: of its training.
        directory: of the run, not yet made.
    """

    program: Program
    settings: Settings
    plan: Plan
    directory: RunDirectory


def run(
    config: FinetuneConfig,
    replicas: Replicas,
    after_epoch: AfterEpoch | None = None,
    *,
    beside: Path | None = None,
    printed_lines: set[str] | None = None,
) -> dict[str, Any]:
    """Fine-tune, or go on with an unfinished run in the same directory.

    Args:
        config: everything about the run.
        replicas: the devices to train on.
        after_epoch: see ``training.Plan``.
        beside: directory of a run of the same study, whose images this one must have.
        printed_lines: those that runs of the same study have printed about themselves, which are not printed again;
            those of this one come to them. ``run.log`` has all.

    Returns:
        The content of ``summary.json``.

    Raises:
        UserError: the input is bad; says which flag or file.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    with replicas.fail_together():
        config, directory = _begun(config, replicas)
    same_run.agree_on_progress(directory)
    if directory.summary is not None:
        recorded_data.check_finished(config, directory)
        return directory.summary
    began = time.monotonic()
    with directory:
        with replicas.fail_together():
            data_before = recorded_data.before(directory.path, *([] if beside is None else [beside]))
            program, settings = prepare(
                config,
                replicas,
                chosen_before=directory.resolved,
                data_before=data_before,
                directory=directory.path,
            )
            callback = report.after_each_epoch(program, settings, directory, after_epoch)
            plan = programs.plan_of(program, settings.config, callback)
        return _train(Prepared(program, settings, plan, directory), began, printed_lines)


def train_in_lockstep(
    configs: Sequence[FinetuneConfig],
    replicas: Replicas,
    *,
    vectorize: bool | None = None,
    after_epochs: Sequence[AfterEpoch | None] | None = None,
    beside: Path | None = None,
) -> list[dict[str, Any] | Diverged | Pruned]:
    """Fine-tune with several settings of rates, momentum and weight decay, compiling once.

    Each run gets a directory and a result like that of :func:`run` alone, equal to rounding. One that has
    ended there is not trained again; those that were cut short go on.

    Args:
        configs: equal but for ``config.settings.RUNTIME_SETTINGS`` and ``workdir``.
        replicas: the devices to train on.
        vectorize: whether one program takes the same step of all runs (``jax.vmap``), or the program of one
            run takes the runs one after the other; by default whichever is faster here.
        after_epochs: of each run, see ``training.Plan``.
        beside: directory of a run of the same study, whose images these must have.

    Returns:
        The content of ``summary.json`` of each run, or how it diverged or was pruned, which stops no other run.

    Raises:
        UserError: the input is bad; says which flag or file.
        Stopped: SIGTERM or Ctrl-C came; all states are saved.
    """
    _check_group(configs)
    with replicas.fail_together():
        configs, directories = zip(*[_begun(config, replicas) for config in configs], strict=True)
    for directory in directories:
        same_run.agree_on_progress(directory)
    results: list[Any] = [directory.summary for directory in directories]
    for config, directory, summary in zip(configs, directories, results, strict=True):
        if summary is not None:
            recorded_data.check_finished(config, directory)
    unfinished = [number for number, summary in enumerate(results) if summary is None]
    if not unfinished:
        return results
    began = time.monotonic()
    callbacks = after_epochs or [None] * len(configs)
    with replicas.fail_together():
        paths = [directories[number].path for number in unfinished]
        data_before = recorded_data.before(*paths, *([] if beside is None else [beside]))
        program, first = prepare(configs[unfinished[0]], replicas, data_before=data_before)
        for path in paths:
            recorded_data.before(path).check(program.images.source)
        runs = {}
        by_step = any(tables.rates_change_within_epochs(config) for config in configs)
        for number in unfinished:
            settings = settings_of(configs[number], program.images)
            directory = directories[number]
            callback = report.after_each_epoch(program, settings, directory, callbacks[number])
            plan = programs.plan_of(program, settings.config, callback, rates_by_step=by_step)
            runs[number] = Prepared(program, settings, plan, directory)
    if program.placement.in_shares or program.method.acts_between_steps:
        vectorize = False
    if vectorize is None:
        # XLA has no fast convolution on CPU with weights of several runs at once (docs/lab/performance.md).
        vectorize = not replicas.on_cpu or program.trained == ("head",)
    if not vectorize:
        for number, prepared in runs.items():
            try:
                with prepared.directory:
                    results[number] = _train(prepared, time.monotonic())
            except (Diverged, Pruned) as error:
                results[number] = error
        return results
    members = [
        lockstep.Member(programs.initial_state(program, settings.config), plan, directory)
        for _, settings, plan, directory in runs.values()
    ]
    with contextlib.ExitStack() as owned:
        for prepared in runs.values():
            owned.enter_context(prepared.directory)
            _claim(prepared)
        endings = lockstep.fit(members, programs.lanes_of(program, first.config, len(members)), replicas)
        for (number, prepared), ending in zip(runs.items(), endings, strict=True):
            results[number] = ending or finish(program, prepared.settings, prepared.directory, began)
    return results


def prepare(
    flags: FinetuneConfig,
    replicas: Replicas,
    *,
    chosen_before: Mapping[str, Any] | None = None,
    data_before: recorded_data.Before = recorded_data.NOTHING,
    directory: Path | None = None,
) -> tuple[Program, Settings]:
    """The program of a run and its settings, from its flags.

    Args:
        flags: of the run, valid.
        replicas: where it trains.
        chosen_before: see ``chosen_rate.chosen_settings``.
        data_before: what an earlier start of the run tells of its data, which must be the same.
        directory: of the run, where a search before training is to say what the run is about.

    Raises:
        UserError: data, weights and settings do not go together.
    """
    origin = run_start.load_origin(flags)
    refuse_a_guess(flags, origin, chosen_before)
    images = run_images.load(flags, origin.image_size, replicas, data_before)
    task = tasks.create(flags, images.source)
    settings = chosen_settings(flags, images, origin, chosen_before)
    config = settings.config
    key = jax.random.fold_in(programs.run_key(config), programs.HEAD_STREAM)
    start = run_start.begin(config, origin, images.class_names, task, key, images.image_size)
    program = programs.build(config, task, images, start, replicas)
    if config.from_probe:
        program = probe_start.built(program, config)
    settings = rate_search.searched(program, settings, chosen_before, directory)
    if settings.config.from_probe and not config.from_probe:
        program = probe_start.built(program, settings.config)
    return program, settings


def _train(prepared: Prepared, began: float, printed_lines: set[str] | None = None) -> dict[str, Any]:
    """Train a run alone, finish it, and return its summary."""
    program, settings, plan, directory = prepared
    printed_lines = set() if printed_lines is None else printed_lines
    training = programs.training_of(program, settings.config)
    _claim(prepared, printed_lines)
    # Not named here: its momentum would stay in memory until the end.
    loop.fit(
        programs.initial_state(program, settings.config),
        training,
        plan,
        program.replicas,
        directory,
    )
    return finish(program, settings, directory, began, printed_lines)


def _claim(prepared: Prepared, printed_lines: set[str] | None = None) -> None:
    """Make the directory that of the run, and print the rates."""
    program, settings, _, directory = prepared
    # Not earlier: a mistake in a flag must not keep the directory from the corrected command.
    source = program.images.source
    rates_and_data = settings.rates | recorded_data.resolved(source) | {recorded_data.TASK: program.task.name}
    if program.images.division is not None:
        rates_and_data |= {recorded_data.SHARDS: program.images.division.shards}
    same_run.claim(directory, dataclasses.asdict(settings.flags), rates_and_data)
    recorded_data.write(directory, source)
    flags = settings.flags
    with program.replicas.fail_together():
        directory.open_loggers(flags.loggers, flags.log_project, dataclasses.asdict(flags))
    if program.replicas.is_primary:
        reason = [f"{settings.chosen_by}: {settings.reason}"] if settings.reason else []
        values = resolution.line(resolution.values(settings.config), program.images.steps_per_epoch)
        first = about.first_lines(program, settings, directory.path)
        for line in (*first, *reason, values):
            if not (settings.announced and line in first) and line not in (printed_lines or ()):
                # A log keeps whole lines.
                print(about.wrapped(line) if sys.stderr.isatty() else line, file=sys.stderr)
            directory.note(line)
            if printed_lines is not None:
                printed_lines.add(line)


def _begun(config: FinetuneConfig, replicas: Replicas) -> tuple[FinetuneConfig, RunDirectory]:
    """The config of a run as it began, and its directory, checked with the flags and not yet made."""
    validate(config)
    if not config.workdir:
        raise UserError("--workdir is empty; name a directory for the run")
    recorded_data.refuse_workdir_among_images(config)
    replicas.check_batch_size(config.batch_size)
    directory = RunDirectory(Path(config.workdir).expanduser(), primary=replicas.is_primary)
    config = directory.as_begun(config)
    directory.check(dataclasses.asdict(config))
    return config, directory


def _check_group(configs: Sequence[FinetuneConfig]) -> None:
    if not configs:
        raise UserError("there is no run to train")
    first = dataclasses.asdict(configs[0])
    for config in configs:
        word = config.learning_rate if isinstance(config.learning_rate, str) else None
        if word or config.method in FINDS_RATES:
            chosen_by = f"--learning_rate={word}" if word else f"--method={config.method}"
            raise UserError(f"{chosen_by} chooses one rate, which has no others to be trained together with")
    for config in configs[1:]:
        for name, value in dataclasses.asdict(config).items():
            if name not in RUNTIME_SETTINGS and name != "workdir" and value != first[name]:
                raise UserError(
                    f"--{name}={value} and --{name}={first[name]} cannot be trained together; only "
                    f"{', '.join(f'--{setting}' for setting in RUNTIME_SETTINGS)} may differ"
                )
    workdirs = [str(Path(config.workdir).expanduser()) for config in configs]
    for workdir in workdirs:
        if workdirs.count(workdir) > 1:
            raise UserError(f"--workdir={workdir} is given for several runs; each needs its own")
