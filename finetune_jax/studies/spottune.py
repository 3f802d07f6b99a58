"""SpotTune beside the methods of its paper's Table 2, on any data set.

Each method's rate is chosen on the validation split, and of the chosen runs the epoch too; the test split is looked
at once.
"""

import dataclasses
from typing import Any

from finetune_jax.config.checks import without_idle_settings
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.reports.published.spottune import TABLE_2_METHODS
from finetune_jax.reports.spottune import SPOTTUNE
from finetune_jax.studies import comparison
from finetune_jax.studies.comparison import Entry, Protocol, Train
from finetune_jax.studies.progress import Progress

_IN_SHORT = ("feature extractor", "standard", "last 3", "SpotTune, global", SPOTTUNE)


def entries(base: FinetuneConfig, *, compare: bool, resnet101: str = "") -> list[Entry]:
    """The methods of the study, each with what sets it apart from ``base``.

    Args:
        base: what all methods share, of ``--method=spottune_global``; a setting counts for the methods on which
            it has an effect.
        compare: all of Table 2, instead of the most telling ones.
        resnet101: weights of a ResNet-101; without, that row is left out.
    """
    methods = []
    for name, of_method in TABLE_2_METHODS.items():
        if not compare and name not in _IN_SHORT:
            continue
        if name == "ResNet-101":
            if not resnet101:
                continue
            of_method = {**of_method, "pretrained": resnet101, "width": 1.0}
        config = without_idle_settings(dataclasses.replace(base, **of_method))
        settings = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name in of_method or getattr(config, field.name) != getattr(base, field.name)
        }
        methods.append(Entry(name, settings))
    return methods


def run(
    base: FinetuneConfig,
    train: Train,
    protocol: Protocol,
    *,
    compare: bool,
    resnet101: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Choose the rates, test.

    Args:
        base: see :func:`entries`; its own starting rate and seed do not count.
        train: trains one config.
        protocol: rates and seeds.
        compare: see :func:`entries`.
        resnet101: see :func:`entries`.
        progress: is told of every run.

    Returns:
        JSON: ``entries`` (see ``comparison.tested``) and ``configurations``, how many were tried.

    Raises:
        UserError: a method diverged at every rate.
    """

    progress = progress or Progress()
    score = comparison.scorer(base, train, progress)
    methods = entries(base, compare=compare, resnet101=resnet101)
    try:
        choices = comparison.choose(methods, protocol, score, progress)
    except ValueError as error:
        raise UserError(f"{error}; give lower --rates") from error
    progress.expect(len(choices) * len(protocol.seeds))
    return {
        "dataset": base.dataset,
        "protocol": dataclasses.asdict(protocol),
        "entries": [comparison.tested(choice, base, train, protocol, progress) for choice in choices],
        "configurations": sum(len(choice.tried) for choice in choices),
        "without": [] if resnet101 or not compare else ["ResNet-101"],
    }
