"""Fine-tune pretrained vision models in JAX.

Every public module is imported on first use (``finetune_jax.autolr``, ``finetune_jax.models``, …), so that
``import finetune_jax`` and ``--help`` of a binary cost no JAX start-up.
"""

import importlib
from typing import Any

_MODULES = frozenset(
    {
        "augmentation",
        "data",
        "models",
        "optimizers",
        "retrieval",
    }
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"finetune_jax.{name}")
    if name == "load":
        return importlib.import_module("finetune_jax.inference").load
    raise AttributeError(f"module 'finetune_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, "load"])
