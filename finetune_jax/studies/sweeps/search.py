"""What a sweep of hyperparameters may try: a grid, or a space that a sampler draws from.

Source: Li et al., "Rethinking the Hyperparameters for Fine-tuning" (ICLR 2020), sections 3.1 and 3.3.
"""

import dataclasses
import itertools
import math
from collections.abc import Hashable
from typing import NamedTuple

from finetune_jax.algorithms import hyperparameters
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

SEARCHES = ("grid", "tpe")
PRUNERS = ("none", "median")

_DIGITS = 9
"""To which effective values are compared: 0.1 / (1 - 0.9) is not 1 in floating point."""


class Point(NamedTuple):
    """A setting that a sweep tries.

    Attributes:
        learning_rate: ``η`` > 0.
        momentum: ``m`` in [0, 1).
        weight_decay: ``λ`` ≥ 0.
    """

    learning_rate: float
    momentum: float
    weight_decay: float

    @property
    def effective_learning_rate(self) -> float:
        """``η′ = η / (1 − m)``, to nine digits."""
        return _rounded(hyperparameters.effective_learning_rate(self.learning_rate, self.momentum))

    @property
    def effective_weight_decay(self) -> float:
        """``λ′ = λ / η``, to nine digits."""
        return _rounded(hyperparameters.effective_weight_decay(self.weight_decay, self.learning_rate))

    def __str__(self) -> str:
        return f"lr{self.learning_rate:.4g}-m{self.momentum:.4g}-wd{self.weight_decay:.4g}"


@dataclasses.dataclass(frozen=True)
class Search:
    """What is tried, and in which way.

    Attributes:
        kind: ``grid`` tries every combination; ``tpe`` lets a tree-structured Parzen estimator choose, the
            learning rate between the smallest and the largest, momentum and weight decay among those given.
        learning_rates: ``η``.
        momenta: ``m``.
        weight_decays: ``λ``.
        dedup: whether points with the same effective values count as one.
        trials: how many ``tpe`` tries; the grid has its own number.
        seed: of the sampler.
        pruner: ``median`` stops a trial that is worse than the median of those before it at the same epoch.
        effective_learning_rates: ``η′``; where there are any, the grid is of these instead of ``η``.
    """

    kind: str = "grid"
    learning_rates: tuple[float, ...] = hyperparameters.FINE_TUNING.learning_rates
    momenta: tuple[float, ...] = hyperparameters.FINE_TUNING.momenta
    weight_decays: tuple[float, ...] = hyperparameters.FINE_TUNING.weight_decays
    dedup: bool = False
    trials: int = 50
    seed: int = 0
    pruner: str = "none"
    effective_learning_rates: tuple[float, ...] = ()

    def check(self, base: FinetuneConfig) -> None:
        """Whether there is something to try, and nothing that cannot be trained.

        Raises:
            UserError: names the flag.
        """
        for flag, values, accepted, expected in (
            ("learning_rates", self.learning_rates, lambda v: 0 < v < math.inf, "rates above 0"),
            (
                "effective_learning_rates",
                self.effective_learning_rates or self.learning_rates,
                lambda v: 0 < v < math.inf,
                "rates above 0",
            ),
            ("momenta", self.momenta, lambda v: 0 <= v < 1, "numbers in [0, 1)"),
            ("weight_decays", self.weight_decays, lambda v: 0 <= v < math.inf, "0 or more"),
        ):
            if not values or not all(map(accepted, values)) or len(set(values)) < len(values):
                shown = ",".join(f"{value:g}" for value in values)
                raise UserError(f"--{flag}={shown} is out of range; give {expected}, one or more, none twice")
        if self.effective_learning_rates and self.kind != "grid":
            raise UserError("--effective_learning_rates is for --search=grid; give --learning_rates")
        if self.trials < 1:
            raise UserError(f"--trials={self.trials} is out of range; give a whole number of at least 1")
        if self.seed < 0:
            raise UserError(f"--search_seed={self.seed} is out of range; give 0 or more")
        if base.optimizer != "sgd" and self.momenta != (base.momentum,):
            raise UserError(f"--momenta is for --optimizer=sgd and has no meaning with {base.optimizer}")
        if base.select_on == "test":
            raise UserError(
                "--select_on=test contradicts this study, which chooses on the validation images and tests the best"
            )
        if self.dedup:
            self._check_that_effective_values_tell_all(base)

    def _check_that_effective_values_tell_all(self, base: FinetuneConfig) -> None:
        if base.optimizer != "sgd":
            raise UserError(
                f"--dedup is for --optimizer=sgd; {base.optimizer} has no effective learning rate"
            )
        for name in ("head_learning_rate", "proxy_learning_rate"):
            if rate := getattr(base, name):
                raise UserError(
                    f"--dedup contradicts --{name}={rate:g}, a rate that does not move with --learning_rates: points "
                    "with the same effective values differ in it"
                )

    def points(self) -> list[Point]:
        """The grid in order: momentum varies within a rate, weight decay within a momentum."""
        if not self.effective_learning_rates:
            return [
                Point(*p) for p in itertools.product(self.learning_rates, self.momenta, self.weight_decays)
            ]
        return [
            Point(_rounded(hyperparameters.learning_rate_for(rate, momentum)), momentum, decay)
            for rate, momentum, decay in itertools.product(
                self.effective_learning_rates, self.momenta, self.weight_decays
            )
        ]

    @property
    def grid_rates(self) -> tuple[float, ...]:
        """``η`` of the points of the grid."""
        return tuple(sorted({point.learning_rate for point in self.points()}))

    def key(self, point: Point) -> Hashable:
        """The same for points that need not both be trained."""
        if self.dedup:
            return point.effective_learning_rate, point.effective_weight_decay
        return point

    def equals(self) -> dict[int, int]:
        """``{index of a point of the grid: index of the earlier one that it is equal to}``."""
        first: dict[Hashable, int] = {}
        equal_to = {}
        for index, point in enumerate(self.points()):
            earlier = first.setdefault(self.key(point), index)
            if earlier != index:
                equal_to[index] = earlier
        return equal_to


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
