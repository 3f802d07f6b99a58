"""The head first, then all, or one part after the other: rates of parts are 0 until their first epoch.

Kumar et al., "Fine-Tuning can Distort Pretrained Features" (ICLR 2022): linear probing, then fine-tuning. Howard and
Ruder, "ULMFiT" (ACL 2018): gradual unfreezing from the top. One compiled program trains all of it.
"""

import dataclasses
from collections.abc import Mapping

from finetune_jax.algorithms import autolr
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training.tuning import Pass, Tuner, TunerState, Verdict

_ABOVE = ("head", "proxies")  # the names of what is new begin so


def first_epochs(config: FinetuneConfig, trained: tuple[str, ...]) -> dict[str, int]:
    """``{part: the epoch in which it begins to learn}``, 0 for the head.

    Args:
        config: of the run.
        trained: names of all trained parts, those of the network from the input up.
    """
    below = [name for name in reversed(trained) if not name.startswith(_ABOVE)]
    start = config.head_epochs
    epochs = dict.fromkeys(trained, 0)
    for place, name in enumerate(below):
        epochs[name] = start + place * config.unfreeze_epochs
    return epochs


@dataclasses.dataclass(frozen=True)
class Unfreezing:
    """Another tuner's rates, 0 for parts that do not learn yet.

    As long as no block learns there is nothing to judge: every pass counts, and the other tuner does not see it.

    Attributes:
        tuner: of the rates.
        first_epochs: ``{part: epoch}`` of :func:`first_epochs`.
    """

    tuner: Tuner
    first_epochs: Mapping[str, int]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of the other tuner."""
        return self.tuner.blocks

    @property
    def measure(self) -> str:
        """Of the other tuner."""
        return self.tuner.measure

    @property
    def can_reject(self) -> bool:
        """As the other tuner."""
        return self.tuner.can_reject

    @property
    def renews(self) -> bool:
        """As the other tuner."""
        return self.tuner.renews

    def initial(self) -> TunerState:
        """That of the other tuner."""
        return self.tuner.initial()

    def rates(self, state: TunerState, epoch: int) -> dict[str, float]:
        """Those of the other tuner, or 0."""
        rates = self.tuner.rates(state, epoch)
        return {
            name: rate if epoch >= self.first_epochs[_part(name)] else 0.0 for name, rate in rates.items()
        }

    def judge(self, state: TunerState, outcome: Pass) -> tuple[TunerState, Verdict]:
        """Accepted while no block learns, then the other tuner's."""
        if (
            any(outcome.epoch >= self.first_epochs[_part(name)] for name in self.blocks)
            or not self.can_reject
        ):
            return self.tuner.judge(state, outcome)
        quality = float(autolr.sorting_quality(outcome.variations))
        return state, Verdict(outcome.finite, 1, quality, 0.0, {}, "the head alone learned")


def _part(name: str) -> str:
    """Of the network, to which an array with a rate of its own belongs."""
    return name.partition("/")[0]
