"""Fast Trainable Projection (Tian et al., NeurIPS 2023): weights stay near the pretrained ones, learning how near."""

import dataclasses
from collections.abc import Mapping

from finetune_jax.algorithms import projection
from finetune_jax.algorithms.optimizers import Rule
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rates
from finetune_jax.training.methods.plain import Standard


@dataclasses.dataclass(frozen=True)
class Projected(Standard):
    """All parts are trained; those that are pretrained end every step within balls around their start."""

    def rules(self, config: FinetuneConfig) -> Mapping[str, Rule]:
        """The run's optimiser with a projection behind it, of all parts but the head."""
        rule = projection.projected_rule(
            rates.rule_of(config),
            radius_rate=config.radius_rate,
            shrinking=config.radius_shrinking,
            shared=config.radii == "block",
        )
        return {name: rule for name in self.trained if name != "head"}
