"""Fine-tunes: one run, or several in lockstep."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_jax.config.checks import validate
from finetune_jax.config.choices import AUTO
from finetune_jax.config.settings import RUNTIME_SETTINGS, FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, Pruned, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import same_run
from finetune_jax.runs.program import _Job
from finetune_jax.training import lockstep
from finetune_jax.training.plan import AfterEpoch


def run(config: FinetuneConfig, replicas: Replicas, after_epoch: AfterEpoch | None = None) -> dict[str, Any]:
    """Fine-tune, or go on with an unfinished run in the same directory.

    Args:
        config: everything about the run.
        replicas: the devices to train on.
        after_epoch: see ``training.Plan``.

    Returns:
        The content of ``summary.json``.

    Raises:
        UserError: the input is bad; says which flag or file.
        Stopped: SIGTERM came; the state is saved.
    """
    directory = _directory(config, replicas)
    same_run.agree_on_progress(directory)
    if directory.summary is not None:
        return directory.summary
    began = time.monotonic()
    with replicas.together():
        job = _Job(config, replicas, after_epoch, chosen_before=directory.resolved)
    return job.run(directory, began)


def run_together(
    configs: Sequence[FinetuneConfig],
    replicas: Replicas,
    *,
    vectorize: bool | None = None,
    after_epochs: Sequence[AfterEpoch | None] | None = None,
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

    Returns:
        The content of ``summary.json`` of each run, or how it diverged or was pruned, which stops no other run.

    Raises:
        UserError: the input is bad; says which flag or file.
        Stopped: SIGTERM came; all states are saved.
    """
    _check_group(configs)
    directories = [_directory(config, replicas) for config in configs]
    for directory in directories:
        same_run.agree_on_progress(directory)
    results: list[Any] = [directory.summary for directory in directories]
    unfinished = [number for number, summary in enumerate(results) if summary is None]
    if not unfinished:
        return results
    began = time.monotonic()
    with replicas.together():
        first = _Job(configs[unfinished[0]], replicas)
        told = after_epochs or [None] * len(configs)
        jobs = {number: first.with_settings_of(configs[number], told[number]) for number in unfinished}
    if vectorize is None:
        # XLA has no fast convolution on CPU with weights of several runs at once (docs/lab/performance.md).
        vectorize = not replicas.on_cpu or first.trained == ("head",)
    if not vectorize:
        for number, job in jobs.items():
            try:
                results[number] = job.run(directories[number], time.monotonic())
            except (Diverged, Pruned) as error:
                results[number] = error
        return results
    members = [
        lockstep.Member(job.initial_state(), job.plan, directories[number]) for number, job in jobs.items()
    ]
    for number, job in jobs.items():
        job.claim(directories[number])
    endings = lockstep.fit(members, first.lanes(len(members)), replicas)
    for (number, job), ending in zip(jobs.items(), endings, strict=True):
        results[number] = ending or job.finish(directories[number], began)
    return results


def _directory(config: FinetuneConfig, replicas: Replicas) -> RunDirectory:
    """The directory of a run, checked with its flags and not yet made."""
    validate(config)
    if not config.workdir:
        raise UserError("--workdir is empty; name a directory for the run")
    replicas.check_batch_size(config.batch_size)
    directory = RunDirectory(Path(config.workdir).expanduser(), primary=replicas.is_primary)
    directory.check(dataclasses.asdict(config))
    return directory


def _check_group(configs: Sequence[FinetuneConfig]) -> None:
    if not configs:
        raise UserError("there is no run to train")
    first = dataclasses.asdict(configs[0])
    if AUTO in [config.learning_rate for config in configs]:
        raise UserError(
            "--learning_rate=auto chooses one rate, which has no others to be trained together with"
        )
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
