"""Settings as ``flags.json`` of a run directory keeps them, also of versions that knew fewer of them.

A run from before a setting existed did what ``before`` of the setting says, which is its default unless it is
declared with another value.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import LOCAL_SETTINGS, FinetuneConfig

Config = TypeVar("Config")


def lasting(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must not change between two starts, as they come back from JSON."""
    return _as_json({name: value for name, value in flags.items() if name not in LOCAL_SETTINGS})


def completed(flags: Mapping[str, Any], config_class: type = FinetuneConfig) -> dict[str, Any]:
    """Recorded settings, and for those that are missing what runs did before they existed; all as in JSON.

    Args:
        flags: as they were recorded, ``{name: value}``; names that are no settings stay.
        config_class: whose settings there are today.
    """
    before = {name: setting.before for name, setting in declared(config_class).items()}
    return _as_json({**before, **flags})


def as_begun(config: Config, flags: Mapping[str, Any]) -> Config:
    """The config for going on with a run: settings that did not exist when it began do what runs did then.

    Args:
        config: of the start that goes on; a setting that has its default counts as not given.
        flags: of the run, as they were recorded.
    """
    values = {
        name: setting.before
        for name, setting in declared(type(config)).items()
        if name not in flags
        and getattr(config, name) == setting.default
        and setting.before != setting.default
    }
    return dataclasses.replace(config, **values) if values else config  # type: ignore[type-var]


def config_of(flags: Mapping[str, Any], config_class: type[Config]) -> Config:
    """The config of recorded settings.

    Args:
        flags: as they were recorded; names that are none of its settings are left out.
        config_class: a config dataclass.
    """
    values = completed(flags, config_class)
    known = {
        name: tuple(values[name]) if isinstance(setting.default, tuple) else values[name]
        for name, setting in declared(config_class).items()
    }
    return config_class(**known)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(values)))
