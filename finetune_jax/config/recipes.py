"""Defaults of the methods' papers, and changed configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_jax.config.choices import ALTERNATIVES
from finetune_jax.config.settings import DEFAULTS, FinetuneConfig

RUNTIME_SETTINGS = (
    "learning_rate",
    "effective_learning_rate",
    "head_learning_rate",
    "proxy_learning_rate",
    "policy_learning_rate",
    "momentum",
    "policy_momentum",
    "weight_decay",
    "effective_weight_decay",
    "policy_weight_decay",
    "layer_decay",
    "discriminative_ratio",
    "rate_factors",
    "schedule",
    "drop_epochs",
    "drop_factor",
    "cycles",
    "lowest_factor",
    "alpha",
    "beta",
    "threshold",
    "threshold_decay",
    "threshold_floor",
    "max_trials",
)
"""Settings that no compiled program knows: runs that differ in nothing else can be trained together."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "autolr": {
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-2,
        "batch_size": 40,
        "epochs": 50,
        "schedule": "step",
        "drop_factor": 0.2,
    },
    # The penalty takes the place of weight decay; the paper fine-tunes three blocks.
    "l2_sp": {"weight_decay": 0.0},
    "spottune_global": {"k": 3},
}
"""Defaults of a method's paper, where they differ from those of everything else."""


def recipe(method: str) -> FinetuneConfig:
    """The config of a method before the user has changed anything."""
    return FinetuneConfig(method=method, **RECIPES.get(method, {}))


def changed(config: FinetuneConfig, **settings: Any) -> FinetuneConfig:
    """The config with other settings; of two :data:`ALTERNATIVES` the one that is set takes the other's place."""
    for plain, effective in ALTERNATIVES:
        if plain in settings:
            settings.setdefault(effective, None)
        elif settings.get(effective) is not None:
            settings[plain] = DEFAULTS[plain]
    return dataclasses.replace(config, **settings)
