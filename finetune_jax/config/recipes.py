"""Defaults of the methods' papers, and changed configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_jax.config import methods
from finetune_jax.config.choices import ALTERNATIVES
from finetune_jax.config.settings import DEFAULTS, FinetuneConfig

RECIPES: Mapping[str, Mapping[str, Any]] = {
    name: method.recipe for name, method in methods.BY_NAME.items() if method.recipe
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
