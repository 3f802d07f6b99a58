"""AutoLR (Ro and Choi, AAAI 2021): one learning rate per block, tuned in trials of an epoch."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from finetune_jax.algorithms import autolr
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged, UserError
from finetune_jax.training import rates
from finetune_jax.training.methods.adapted import Lora
from finetune_jax.training.methods.method import Method
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.tuning import Pass, Tuner, Verdict


class Stage(NamedTuple):
    """Blocks that have one rate.

    Attributes:
        blocks: their names.
        counts: elements of the kernels of each.
    """

    blocks: tuple[str, ...]
    counts: tuple[int, ...]


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
            self._stages(trained) if config.tuned_over == "stages" else (),
        )

    def _stages(self, trained: tuple[str, ...]) -> tuple[Stage, ...]:
        """Of the trained blocks."""
        kept = (tuple(name for name in stage if name in trained) for stage in self.network.stages())
        params = self.network.shapes()["params"]
        return tuple(
            Stage(stage, tuple(int(count) for count in autolr.kernel_counts(params, blocks=stage)))
            for stage in kept
            if stage
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
        stages: of the blocks, in order; empty where every block has a rate of its own.
    """

    config: autolr.AutoLRConfig
    blocks: tuple[str, ...]
    learning_rate: float
    head_rates: Mapping[str, float]
    stem: str | None
    decay: Callable[[int], float]
    measure: str = "mean"
    stages: tuple[Stage, ...] = ()
    can_reject = True
    renews = False  # passes that can be thrown away do in any case

    def __post_init__(self) -> None:
        if len(self.blocks) < 2:
            raise UserError(
                f"--method=autolr orders the blocks of a network, and here it has {len(self.blocks)}; "
                "prune fewer, or use --method=standard"
            )
        if len(self.stages) == 1:
            raise UserError(
                "--tuned_over=stages: all blocks that are trained have outputs of one shape, which is one stage; leave "
                "it out, and each block has a rate of its own"
            )

    def initial(self) -> AutoLRTuning:
        """Every block at the same rate."""
        rates = np.full(len(self.stages or self.blocks), self.learning_rate, np.float32)
        return AutoLRTuning(jax.device_get(autolr.init(self.config, rates)), np.ones((), np.float32))

    def rates(self, state: AutoLRTuning, epoch: int) -> dict[str, float]:
        """Of all trained parts."""
        rates = self._by_block(state.blocks.learning_rates)
        of_first, decay = rates[self.blocks[0]], self.decay(epoch)
        if self.stem is not None:
            renewed = bool((state.blocks.learning_rates != np.float32(self.learning_rate)).any())
            rates = {self.stem: (0.5 if renewed else 1.0) * of_first, **rates}
        rates |= {name: rate * float(state.head_factor) for name, rate in self.head_rates.items()}
        return {name: rate * decay for name, rate in rates.items()}

    def judge(self, state: AutoLRTuning, outcome: Pass) -> tuple[AutoLRTuning, Verdict]:
        """Accepted where the variations are sorted well enough.

        Raises:
            Diverged: so did the last trial allowed.
        """
        variations = outcome.variations
        if self.stages:
            of_blocks = dict(zip(self.blocks, variations, strict=True))
            variations = np.array(
                [
                    of_stage([of_blocks[name] for name in stage.blocks], stage.counts, self.measure)
                    for stage in self.stages
                ],
                np.float32,
            )
        following, judgement = autolr.update(self.config, state.blocks, variations, outcome.finite)
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
            targets = self._by_block(blocks.targets)
        verdict = Verdict(
            accepted=bool(judged.accepted),
            trial=int(state.blocks.trial) + 1,
            quality=float(judged.quality),
            threshold=float(state.blocks.threshold),
            targets=targets,
            remark=_remark(judged, self.config),
        )
        return AutoLRTuning(blocks, np.asarray(state.head_factor * factor)), verdict

    def _by_block(self, values: ArrayLike) -> dict[str, float]:
        """``{block: value}`` of the values of the stages, or of the blocks."""
        if not self.stages:
            return dict(zip(self.blocks, np.asarray(values).tolist(), strict=True))
        of_stages = zip(self.stages, np.asarray(values).tolist(), strict=True)
        return {name: value for stage, value in of_stages for name in stage.blocks}


def of_stage(variations: Sequence[float], counts: Sequence[int], measure: str) -> float:
    """The variation of blocks as one.

    Args:
        variations: of the blocks.
        counts: elements of the kernels of each.
        measure: of the variations; the relative movement of a stage is the root mean square of that of its blocks,
            which count by their elements.

    >>> of_stage([1.0, 1.0], [3, 4], "mean")  # movements of length 3 and 4
    0.7142857142857143
    >>> of_stage([3.0, 4.0], [5, 5], "rms") == 12.5**0.5
    True
    """
    v, n = np.asarray(variations, np.float64), np.asarray(counts, np.float64)
    squares = np.square(n * v) if measure == "mean" else n * np.square(v)
    return float(np.sqrt(squares.sum()) / (n.sum() if measure == "mean" else math.sqrt(n.sum())))


def _remark(judged: autolr.AutoLROutcome, config: autolr.AutoLRConfig) -> str:
    if judged.diverged:
        return "diverged; all rates divided by 10"
    if judged.capped:
        return f"taken as it is: the last of --max_trials={config.max_trials}"
    if judged.fallback:
        return "targets from the smallest to the largest variation: --alpha and --beta ask for a descending order"
    return ""
