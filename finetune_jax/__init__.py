"""Fine-tune pretrained vision models in JAX.

The public modules (``finetune_jax.models``, ``finetune_jax.autolr``, …), :func:`fit`, :func:`load` and the other
functions are imported on first use, so that ``import finetune_jax`` and ``--help`` of a command cost no JAX start-up.
What is not in ``_PUBLIC`` or ``_FUNCTIONS`` is private.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune_jax import models as models
    from finetune_jax.algorithms import augmentation as augmentation
    from finetune_jax.algorithms import autolr as autolr
    from finetune_jax.algorithms import block_rates as block_rates
    from finetune_jax.algorithms import decathlon as decathlon
    from finetune_jax.algorithms import domain_similarity as domain_similarity
    from finetune_jax.algorithms import hyperparameters as hyperparameters
    from finetune_jax.algorithms import losses as losses
    from finetune_jax.algorithms import metrics as metrics
    from finetune_jax.algorithms import optimizers as optimizers
    from finetune_jax.algorithms import policies as policies
    from finetune_jax.algorithms import regularizers as regularizers
    from finetune_jax.algorithms import retrieval as retrieval
    from finetune_jax.algorithms import schedules as schedules
    from finetune_jax.algorithms import spottune as spottune
    from finetune_jax.files import weight_files as weight_files
    from finetune_jax.models import costs as costs
    from finetune_jax.models import grad_cam as grad_cam
    from finetune_jax.models import pruning as pruning
    from finetune_jax.reports import figures as figures
    from finetune_jax.runs.estimator import ImageClassifier as ImageClassifier
    from finetune_jax.runs.estimator import ImageRegressor as ImageRegressor
    from finetune_jax.runs.in_python import evaluate as evaluate
    from finetune_jax.runs.in_python import fit as fit
    from finetune_jax.runs.in_python import predict as predict
    from finetune_jax.runs.predict import load as load

__version__ = "0.1.0"

_PUBLIC = {
    "augmentation": "algorithms.augmentation",
    "autolr": "algorithms.autolr",
    "block_rates": "algorithms.block_rates",
    "costs": "models.costs",
    "decathlon": "algorithms.decathlon",
    "domain_similarity": "algorithms.domain_similarity",
    "figures": "reports.figures",
    "grad_cam": "models.grad_cam",
    "hyperparameters": "algorithms.hyperparameters",
    "losses": "algorithms.losses",
    "metrics": "algorithms.metrics",
    "models": "models",
    "optimizers": "algorithms.optimizers",
    "policies": "algorithms.policies",
    "pruning": "models.pruning",
    "regularizers": "algorithms.regularizers",
    "retrieval": "algorithms.retrieval",
    "schedules": "algorithms.schedules",
    "spottune": "algorithms.spottune",
    "weight_files": "files.weight_files",
}
"""``{public name: module below finetune_jax}``."""

_FUNCTIONS = {
    "ImageClassifier": "runs.estimator",
    "ImageRegressor": "runs.estimator",
    "evaluate": "runs.in_python",
    "fit": "runs.in_python",
    "load": "runs.predict",
    "predict": "runs.in_python",
}
"""``{public function or class: module below finetune_jax that defines it}``."""


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    if name in _PUBLIC:
        return importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, *_FUNCTIONS, "__version__"])
