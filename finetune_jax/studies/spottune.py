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
    base: FinetuneConfig, train: Train, protocol: Protocol, *, compare: bool, resnet101: str = ""
) -> dict[str, Any]:
    """Choose the rates, test.

    Args:
        base: see :func:`entries`; its own starting rate and seed do not count.
        train: trains one config.
        protocol: rates and seeds.
        compare: see :func:`entries`.
        resnet101: see :func:`entries`.

    Returns:
        JSON: ``entries`` (see ``comparison.tested``) and ``configurations``, how many were tried.

    Raises:
        UserError: a method diverged at every rate.
    """

    def score(entry: Entry, rate: float, seed: int) -> float:
        config = comparison.configured(base, entry, rate, seed)
        return comparison.validation_score(
            train, config, f"select/{comparison.slug(entry)}-lr{rate:g}-seed{seed}"
        )

    try:
        choices = comparison.choose(entries(base, compare=compare, resnet101=resnet101), protocol, score)
    except ValueError as error:
        raise UserError(f"{error}; give lower --rates") from error
    return {
        "dataset": base.dataset,
        "protocol": dataclasses.asdict(protocol),
        "entries": [comparison.tested(choice, base, train, protocol) for choice in choices],
        "configurations": sum(len(choice.tried) for choice in choices),
        "without": [] if resnet101 or not compare else ["ResNet-101"],
    }
