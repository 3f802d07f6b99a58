"""AutoLR (Ro and Choi, AAAI 2021): one learning rate per block, tuned in trials of an epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from finetune_jax.algorithms import autolr
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged, UserError
from finetune_jax.training import rates
from finetune_jax.training.methods.adapted import Lora
from finetune_jax.training.methods.method import Method
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.tuning import Pass, Tuner, Verdict


@dataclasses.dataclass(frozen=True)
class Tuned(Method):
    """The rates of the blocks follow from the variations of what is trained of them."""

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """Algorithm 2.

        Raises:
            UserError: there are fewer than two blocks to order.
        """
        rate = number(config.learning_rate)
        head_rates = rates.beside_network(config, trained, self.peak_rates(config))
        head_rates["head"] = config.head_learning_rate or rate
        return AutoLRTuner(
            autolr.AutoLRConfig(
                alpha=config.alpha,
                beta=config.beta,
                threshold=config.threshold,
                threshold_decay=config.threshold_decay,
                threshold_floor=config.threshold_floor,
                max_trials=config.max_trials,
                tuned_epochs=config.tuned_epochs,
                spacing=config.target_spacing,
                ratio=config.target_ratio,
            ),
            rates.blocks_of(trained),
            rate,
            head_rates,
            "stem" if "stem" in trained else None,
            rates.decay(config),
            config.variation,
        )


@dataclasses.dataclass(frozen=True)
class AutoLR(Tuned, Standard):
    """All parts are trained."""


@dataclasses.dataclass(frozen=True)
class AdaptedAutoLR(Tuned, Lora):
    """LoRA's adapters are trained, and the head; the adapters of a block are its weights for AutoLR."""


class AutoLRTuning(NamedTuple):
    """State of :class:`AutoLRTuner`.

    Attributes:
        blocks: rates, targets, threshold and position of Algorithm 2.
        head_factor: float32 ``[]``, what trials that diverged have left of the rates outside the blocks.
    """

    blocks: autolr.AutoLRState
    head_factor: np.ndarray


@dataclasses.dataclass(frozen=True)
class AutoLRTuner:
    """One rate per block, tuned until the variations ascend (Algorithm 2 of AutoLR).

    The rates of a pass are those of the state times ``decay(epoch)``, which Algorithm 2 does not see: it
    renews rates by factors.

    Attributes:
        config: settings of the algorithm.
        blocks: names of the trained blocks, the one nearest to the input first.
        learning_rate: of all blocks, and of the stem, in the first trial.
        head_rates: ``{part: rate}`` of the trained parts above the blocks; fixed but for ``decay`` and
            divergence.
        stem: name of the part below the blocks, if it is trained: half the rate of the first block once
            rates have been renewed.
        decay: epoch to a factor of all rates.
        measure: of the variations.
    """

    config: autolr.AutoLRConfig
    blocks: tuple[str, ...]
    learning_rate: float
    head_rates: Mapping[str, float]
    stem: str | None
    decay: Callable[[int], float]
    measure: str = "mean"
    can_reject = True
    renews = False  # passes that can be thrown away do in any case

    def __post_init__(self) -> None:
        if len(self.blocks) < 2:
            raise UserError(
                f"--method=autolr orders the blocks of a network, and here it has {len(self.blocks)}; "
                "prune fewer, or use --method=standard"
            )

    def initial(self) -> AutoLRTuning:
        """Every block at the same rate."""
        rates = np.full(len(self.blocks), self.learning_rate, np.float32)
        return AutoLRTuning(jax.device_get(autolr.init(self.config, rates)), np.ones((), np.float32))

    def rates(self, state: AutoLRTuning, epoch: int) -> dict[str, float]:
        """Of all trained parts."""
        of_blocks = [float(rate) for rate in state.blocks.learning_rates]
        decay = self.decay(epoch)
        rates = dict(zip(self.blocks, of_blocks, strict=True))
        if self.stem is not None:
            renewed = bool((state.blocks.learning_rates != np.float32(self.learning_rate)).any())
            rates = {self.stem: (0.5 if renewed else 1.0) * of_blocks[0], **rates}
        rates |= {name: rate * float(state.head_factor) for name, rate in self.head_rates.items()}
        return {name: rate * decay for name, rate in rates.items()}

    def judge(self, state: AutoLRTuning, outcome: Pass) -> tuple[AutoLRTuning, Verdict]:
        """Accepted where the variations are sorted well enough.

        Raises:
            Diverged: so did the last trial allowed.
        """
        following, judgement = autolr.update(self.config, state.blocks, outcome.variations, outcome.finite)
        blocks, judged = jax.device_get((following, judgement))
        if judged.stop:
            raise Diverged(
                f"--method=autolr: trial {int(state.blocks.trial) + 1} of epoch {outcome.epoch + 1} diverged "
                f"like the others and was the last allowed (--max_trials={self.config.max_trials}); lower "
                "--learning_rate or --head_learning_rate; the last accepted epoch is saved"
            )
        # Nothing tells which part made a trial diverge, so all its rates fall.
        factor = np.float32(0.1) if judged.diverged else np.float32(1)
        targets = {}
        if not judged.accepted and not judged.diverged:
            targets = dict(zip(self.blocks, map(float, blocks.targets), strict=True))
        verdict = Verdict(
            accepted=bool(judged.accepted),
            trial=int(state.blocks.trial) + 1,
            quality=float(judged.quality),
            threshold=float(state.blocks.threshold),
            targets=targets,
            remark=_remark(judged, self.config),
        )
        return AutoLRTuning(blocks, np.asarray(state.head_factor * factor)), verdict


def _remark(judged: autolr.AutoLROutcome, config: autolr.AutoLRConfig) -> str:
    if judged.diverged:
        return "diverged; all rates divided by 10"
    if judged.capped:
        return f"taken as it is: the last of --max_trials={config.max_trials}"
    if judged.fallback:
        return "targets from the smallest to the largest variation: --alpha and --beta ask for a descending order"
    return ""
