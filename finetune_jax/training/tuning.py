"""Who decides the learning rates of a pass over the training images, and whether the pass counts.

A tuner is a set of pure functions around a state of host arrays, which the loop keeps in its checkpoints. The
passes of one epoch start from the same weights and batch statistics and see the same images in the same
order; the first one that the tuner accepts makes the epoch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from finetune_jax.algorithms import autolr
from finetune_jax.errors import Diverged, UserError

TunerState = Any
"""Pytree of host arrays; ``{}`` where a tuner remembers nothing."""


class Pass(NamedTuple):
    """What a pass over the training images came to.

    Attributes:
        epoch: 0-based.
        variations: float32 ``[K]``, weight variation of each trained block (AutoLR, Eq. 1).
        finite: whether its losses and the weights after it are finite.
    """

    epoch: int
    variations: np.ndarray
    finite: bool


class Verdict(NamedTuple):
    """What a tuner says of a pass.

    Attributes:
        accepted: whether the next epoch starts from its weights; otherwise it is thrown away.
        trial: 1-based number of the pass within its epoch.
        quality: sorting quality of the variations, None where there is nothing to sort.
        threshold: quality from which on it was accepted, None where none is asked for.
        targets: ``{block: variation}`` that the next pass aims at, empty where there is none.
        remark: for the log, empty where there is nothing to say.
    """

    accepted: bool
    trial: int
    quality: float | None
    threshold: float | None
    targets: Mapping[str, float]
    remark: str


class Tuner(Protocol):
    """Rates of passes, and judgement of passes; pure functions of ``state``."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the K blocks whose variations are measured."""

    @property
    def rejects(self) -> bool:
        """Whether passes may be thrown away, each starting without momentum."""

    def initial(self) -> TunerState:
        """The state before the first pass."""

    def rates(self, state: TunerState, epoch: int) -> dict[str, float]:
        """``{part: learning rate}`` of the next pass, one for every trained part."""

    def judge(self, state: TunerState, outcome: Pass) -> tuple[TunerState, Verdict]:
        """The state for the next pass, and what becomes of this one.

        Raises:
            Diverged: the run cannot go on.
        """


@dataclasses.dataclass(frozen=True)
class FixedRates:
    """Rates that depend on the epoch alone; every pass counts.

    Attributes:
        blocks: names of the trained blocks.
        schedule: epoch to ``{part: learning rate}``.
    """

    blocks: tuple[str, ...]
    schedule: Callable[[int], dict[str, float]]
    rejects = False

    def initial(self) -> TunerState:
        """Nothing to remember."""
        return {}

    def rates(self, state: TunerState, epoch: int) -> dict[str, float]:
        """The schedule's."""
        return self.schedule(epoch)

    def judge(self, state: TunerState, outcome: Pass) -> tuple[TunerState, Verdict]:
        """Accepted."""
        several = len(self.blocks) > 1
        quality = float(autolr.sorting_quality(outcome.variations)) if several else None
        return state, Verdict(True, 1, quality, None, {}, "")


class AutoLRTuning(NamedTuple):
    """State of :class:`AutoLR`.

    Attributes:
        blocks: rates, targets, threshold and position of Algorithm 2.
        head_factor: float32 ``[]``, what trials that diverged have left of the rates outside the blocks.
    """

    blocks: autolr.AutoLRState
    head_factor: np.ndarray


@dataclasses.dataclass(frozen=True)
class AutoLR:
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
    """

    config: autolr.AutoLRConfig
    blocks: tuple[str, ...]
    learning_rate: float
    head_rates: Mapping[str, float]
    stem: str | None
    decay: Callable[[int], float]
    rejects = True

    def __post_init__(self) -> None:
        if len(self.blocks) < 2:
            raise UserError(
                f"--method=autolr orders the blocks of a network, and here it has {len(self.blocks)}; "
                "prune fewer, or use --method=standard"
            )

    def initial(self) -> AutoLRTuning:
        """Every block at the same rate."""
        rates = np.full(len(self.blocks), self.learning_rate, np.float32)
        return AutoLRTuning(_on_host(autolr.init(self.config, rates)), np.ones((), np.float32))

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
        following, said = autolr.update(self.config, state.blocks, outcome.variations, outcome.finite)
        blocks, said = _on_host(following), _on_host(said)
        if said.stop:
            raise Diverged(
                f"--method=autolr: trial {int(state.blocks.trial) + 1} of epoch {outcome.epoch + 1} diverged "
                f"like the others and was the last allowed (--max_trials={self.config.max_trials}); lower "
                "--learning_rate or --head_learning_rate; the last accepted epoch is saved"
            )
        # Nothing tells which part made a trial diverge, so all its rates fall.
        factor = np.float32(0.1) if said.diverged else np.float32(1)
        targets = {}
        if not said.accepted and not said.diverged:
            targets = dict(zip(self.blocks, map(float, blocks.targets), strict=True))
        verdict = Verdict(
            accepted=bool(said.accepted),
            trial=int(state.blocks.trial) + 1,
            quality=float(said.quality),
            threshold=float(state.blocks.threshold),
            targets=targets,
            remark=_remark(said, self.config),
        )
        return AutoLRTuning(blocks, np.asarray(state.head_factor * factor)), verdict


def _remark(said: autolr.AutoLROutcome, config: autolr.AutoLRConfig) -> str:
    if said.diverged:
        return "diverged; all rates divided by 10"
    if said.capped:
        return f"taken as it is: the last of --max_trials={config.max_trials}"
    if said.fallback:
        return "targets from the smallest to the largest variation: --alpha and --beta ask for a descending order"
    return ""


def _on_host(tree: Any) -> Any:
    import jax

    return jax.device_get(tree)
