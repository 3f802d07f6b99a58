"""Runs of a study whose scores are a formula."""

import math
from typing import Any

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged

BASE = FinetuneConfig(dataset="digits", epochs=2)


class MadeUp:
    """Training with scores from a formula; notes the configs."""

    def __init__(self, formula: Any) -> None:
        self.formula = formula
        self.configs: dict[str, FinetuneConfig] = {}

    def __call__(self, config: FinetuneConfig, name: str) -> dict[str, Any]:
        assert name not in self.configs or self.configs[name] == config, "one name for two configs"
        validate(config)
        self.configs[name] = config
        score = self.formula(config)
        if math.isnan(score):
            raise Diverged("too fast")
        metric = "accuracy" if config.protocol == "classification" else "recall_at_1"
        return {
            "score": f"test_{metric}",
            f"validation_{metric}": score,
            f"test_{metric}": score - 0.01 * config.seed,
            "test_balanced_accuracy": score - 0.1,
            "classes": 10,
            "parameters": 1000 - 10 * config.prune_depth,
            "parameters_trained": 900,
            "epochs_trained": config.epochs,
            "passes": config.epochs + 3 * (config.method == "autolr"),
            "seconds": 10.0,
            "seconds_per_epoch": 5.0 - config.prune_depth,
        }
