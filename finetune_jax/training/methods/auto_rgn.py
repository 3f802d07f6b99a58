"""Auto-RGN: rates of the blocks in proportion to the gradient relative to the weights.

Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts" (ICLR 2023): the rate of a layer is
multiplied by ``‖g‖ / ‖w‖`` of the layer divided by the largest of all, measured anew in every epoch. Here a layer is a
block, and the gradients are those of the epoch before: by SGD a block has moved by its rate times their sum, so that
nothing has to be computed for it. The first epoch has one rate. With ``--rgn_over=tensors`` a layer is a kernel; norms
and biases have the largest rate of their block.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune_jax.algorithms import autolr, block_rates
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.training import rates
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.tuning import Pass, Tuner, Verdict


@dataclasses.dataclass(frozen=True)
class AutoRGN(Standard):
    """All parts are trained; the rates of the blocks follow from their relative gradients."""

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """Auto-RGN."""
        return self.tuner_of(RGNTuner, config, trained)

    def tuner_of(
        self, kind: type["RGNTuner"], config: FinetuneConfig, trained: tuple[str, ...]
    ) -> "RGNTuner":
        """One of its kind, from the rates of the config."""
        rate = number(config.learning_rate)
        beside = rates.beside_network(config, trained, self.peak_rates(config))
        if "head" in trained:
            beside["head"] = config.head_learning_rate or rate
        stem = "stem" if "stem" in trained else None
        blocks = rates.blocks_of(trained)
        if config.rgn_over == "tensors":
            params = self.network.shapes()["params"]
            blocks = tuple(path for name in blocks for path in kernels_of(name, params[name]))
        return kind(blocks, rate, beside, stem, rates.decay(config), config.renew_optimizer)


def kernels_of(block: str, params: Any) -> list[str]:
    """Paths of the kernels of a block, ``BLOCK/…/kernel``.

    Args:
        block: its name.
        params: its parameters, or their shapes.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    kernel_paths = []
    for path, leaf in leaves:
        names = tuple(str(key.key) for key in path)
        if autolr.is_kernel(names, leaf):
            kernel_paths.append("/".join((block, *names)))
    return kernel_paths


class RGNTuning(NamedTuple):
    """State of :class:`RGNTuner`.

    Attributes:
        factors: of the rates of the blocks in the next epoch, float32 ``[K]``.
    """

    factors: np.ndarray


@dataclasses.dataclass(frozen=True)
class RGNTuner:
    """One rate per block, from the movements of the epoch before.

    Attributes:
        blocks: names of the trained blocks, or of the kernels in them, such as ``block_01/conv/kernel``.
        learning_rate: of the block with the largest relative gradient, and of all in the first epoch.
        beside: ``{part: rate}`` of the trained parts above the blocks.
        stem: name of the part below the blocks, if it is trained: it learns like the first block.
        decay: epoch to a factor of all rates.
        renews: whether every epoch begins without momentum.
    """

    blocks: tuple[str, ...]
    learning_rate: float
    beside: Mapping[str, float]
    stem: str | None
    decay: Callable[[int], float]
    renews: bool = False
    measure = "relative"
    can_reject = False

    def initial(self) -> RGNTuning:
        """One rate for all."""
        return RGNTuning(np.ones(len(self.blocks), np.float32))

    def rates(self, state: RGNTuning, epoch: int) -> dict[str, float]:
        """Of all trained parts."""
        tuned_rates = {
            name: self.learning_rate * float(factor)
            for name, factor in zip(self.blocks, state.factors, strict=True)
        }
        of_blocks: dict[str, float] = {}
        for name, rate in tuned_rates.items():
            block = name.partition("/")[0]
            of_blocks[block] = max(rate, of_blocks.get(block, 0.0))
        first = next(iter(of_blocks.values()), self.learning_rate)
        rates = {
            **({} if self.stem is None else {self.stem: first}),
            **of_blocks,
            **tuned_rates,
            **self.beside,
        }
        return {name: rate * self.decay(epoch) for name, rate in rates.items()}

    def judge(self, state: RGNTuning, outcome: Pass) -> tuple[RGNTuning, Verdict]:
        """Accepted; the factors of the next epoch."""
        factors = self.next_factors(state, outcome)
        quality = float(autolr.sorting_quality(outcome.variations)) if len(self.blocks) > 1 else None
        return RGNTuning(factors.astype(np.float32)), Verdict(True, 1, quality, None, {}, "")

    def next_factors(self, state: RGNTuning, outcome: Pass) -> np.ndarray:
        """Of the rates of the blocks, ``[K]``, after an epoch."""
        return block_rates.relative_gradients(outcome.variations, state.factors)
