"""``--data_shards``: into how many shards the images of a run are divided, and what does not go with shards."""

import math
from collections.abc import Mapping
from typing import Any

from finetune_jax.config.choices import AUTO, FINDS_RATES, RANGE_TESTS
from finetune_jax.errors import UserError

PROCESS = "process"
LARGE = 1_000_000
"""Images from which ``auto`` gives every process its own share, and takes digests from a manifest of the files."""


def refusal(values: Mapping[str, Any]) -> str:
    """What is wrong with the setting among others; empty where nothing is.

    Args:
        values: of all settings, ``{name: value}``.

    >>> refusal({"data_shards": "some"})
    '--data_shards=some is not known; give auto, process, or a number of shards'
    >>> refusal({"data_shards": "process", "balanced_sampling": True})
    '--data_shards=process contradicts --balanced_sampling, which draws from all images of a class'
    """
    value = values.get("data_shards", AUTO)
    if value not in (AUTO, PROCESS) and not (value.isdecimal() and int(value)):
        return f"--data_shards={value} is not known; give auto, process, or a number of shards"
    if value in (AUTO, "1"):
        return ""
    reason = obstacle(values)
    return f"--data_shards={value} contradicts {reason}" if reason else ""


def obstacle(values: Mapping[str, Any]) -> str:
    """A setting that needs the images of all shards in one place, and why; empty where there is none."""
    rate = values.get("learning_rate")
    if values.get("balanced_sampling"):
        return "--balanced_sampling, which draws from all images of a class"
    if values.get("skip_unreadable"):
        return "--skip_unreadable, which renumbers all images; see what check_data lists, and remove it"
    if values.get("normalization") == "dataset":
        return "--normalization=dataset, which is computed from all images; leave it out"
    if rate in (AUTO, *RANGE_TESTS):
        return f"--learning_rate={rate}, which looks at images of all shards before training; give a number"
    if values.get("method") in FINDS_RATES:
        return f"--method={values['method']}, which looks at images of all shards before training"
    return ""


def manifest_from(value: str) -> float:
    """Number of files from which their digests are of names, sizes and times, and not of their content.

    Shards are there so that no process reads everything, which digests of the content would need.

    >>> manifest_from("1"), manifest_from("process"), manifest_from("auto")
    (inf, 0, 1000000)
    """
    return {"1": math.inf, AUTO: LARGE}.get(value, 0)


def resolved(values: Mapping[str, Any], *, processes: int, images: int, recorded: int | None) -> int:
    """The number of shards of a run.

    Args:
        values: of all settings, valid.
        processes: that train together.
        images: of the data set.
        recorded: number that the run began with; None for one that begins.

    Raises:
        UserError: the processes, or a batch, cannot be divided by it.

    >>> settings = {"data_shards": "auto", "batch_size": 32}
    >>> [resolved(settings, processes=4, images=n, recorded=None) for n in (1000, 2_000_000)]
    [1, 4]
    """
    value = values["data_shards"]
    if recorded is not None:
        shards = recorded
    elif value == PROCESS or (value == AUTO and images >= LARGE and not obstacle(values)):
        shards = processes
    else:
        shards = 1 if value == AUTO else int(value)
    if shards == 1:
        return 1
    began = "" if recorded is None or value == str(recorded) else f", with which the run began as {shards}"
    if shards % processes:
        raise UserError(
            f"--data_shards={value}{began}: {processes} processes cannot share {shards} shards evenly; start "
            f"{_divisors(shards)} of them"
        )
    if values["batch_size"] % shards:
        raise UserError(
            f"--batch_size={values['batch_size']} does not divide by the {shards} shards of --data_shards={value}"
        )
    return shards


def _divisors(number: int) -> str:
    *most, last = [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0]
    return f"{', '.join(most)} or {last}"
