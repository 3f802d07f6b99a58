"""Fine-tune pretrained vision models in JAX.

The public modules (``finetune_jax.models``, ``finetune_jax.optimizers``, …) and :func:`load` are imported on
first use, so that ``import finetune_jax`` and ``--help`` of a binary cost no JAX start-up.
"""

import importlib
import importlib.util
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("finetune_jax.inference").load
    if not name.startswith("_") and importlib.util.find_spec(f"finetune_jax.{name}"):
        return importlib.import_module(f"finetune_jax.{name}")
    raise AttributeError(f"module 'finetune_jax' has no attribute {name!r}")
