"""Comparing methods fairly.

Every method is tried from the same starting rates. Where the best rate of one of them lies at an edge of the
grid, the grid is widened there, for all. A method's rate is the one with the best mean validation score over
the selection seeds; then it is trained with each of the reporting seeds and tested once. Everything tried is
kept, not only what was chosen.

This module knows no files: it is handed a function that trains one config.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import Diverged
from finetune_jax.studies.progress import Progress

Train = Callable[[FinetuneConfig, str], Mapping[str, Any]]
"""``(config, name of the run) → summary`` of the run; raises ``Diverged``."""

_WIDENINGS = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method to compare.

    Attributes:
        name: for the table.
        settings: what sets it apart, fields of the config.
    """

    name: str
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a comparison is run.

    Attributes:
        rates: starting rates, ascending; a single one means that rates are not chosen.
        selection_seeds: of the runs that choose a rate.
        seeds: of the runs that are reported.
        widen: whether to widen the grid where a best rate lies at its edge.
    """

    rates: tuple[float, ...]
    selection_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    widen: bool = True


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was tried of one method, and what was chosen.

    Attributes:
        entry: the method.
        tried: ``{rate: validation score of each selection seed}``, NaN where the run diverged.
        rate: the chosen one.
    """

    entry: Entry
    tried: Mapping[float, tuple[float, ...]]
    rate: float

    @property
    def at_edge(self) -> bool:
        """Whether a rate beyond those tried could be better still."""
        return len(self.tried) > 1 and self.rate in (min(self.tried), max(self.tried))


def choose(
    entries: Sequence[Entry],
    protocol: Protocol,
    score: Callable[[Entry, float, int], float],
    progress: Progress | None = None,
) -> list[Choice]:
    """The best rate of each entry.

    Args:
        entries: the methods.
        protocol: rates and seeds.
        score: validation score of an entry, a rate and a seed, larger is better; NaN where it diverged.
        progress: is told how many scores there will be.
    """
    progress = progress or Progress()
    rates = list(protocol.rates)
    tried: dict[str, dict[float, tuple[float, ...]]] = {entry.name: {} for entry in entries}
    for _ in range(_WIDENINGS + 1):
        untried = sum(rate not in tried[entry.name] for entry in entries for rate in rates)
        progress.expect(untried * len(protocol.selection_seeds))
        for entry in entries:
            for rate in rates:
                if rate not in tried[entry.name]:
                    tried[entry.name][rate] = tuple(
                        score(entry, rate, seed) for seed in protocol.selection_seeds
                    )
        choices = [Choice(entry, tried[entry.name], best_rate(tried[entry.name])) for entry in entries]
        if not protocol.widen or len(rates) < 2:
            break
        lowest = any(choice.rate == rates[0] for choice in choices)
        highest = any(choice.rate == rates[-1] for choice in choices)
        if not lowest and not highest:
            break
        rates = [*[_beyond(rates[::-1])] * lowest, *rates, *[_beyond(rates)] * highest]
    return choices


def best_rate(tried: Mapping[float, Sequence[float]]) -> float:
    """The rate with the best mean score, the smallest of equals; a rate that diverged once is no choice.

    Raises:
        ValueError: all diverged.
    """
    means = {rate: statistics.fmean(scores) for rate, scores in sorted(tried.items())}
    finite = {rate: mean for rate, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise ValueError(f"training diverged at every rate tried: {', '.join(f'{rate:g}' for rate in means)}")
    return max(finite, key=finite.__getitem__)


def configured(base: FinetuneConfig, entry: Entry, rate: float, seed: int) -> FinetuneConfig:
    """The config of one run of an entry."""
    return changed(base, **{**entry.settings, "learning_rate": rate, "seed": seed})


def scorer(base: FinetuneConfig, train: Train, progress: Progress) -> Callable[[Entry, float, int], float]:
    """The function that :func:`choose` calls: it trains an entry at a rate with a seed.

    Args:
        base: what all entries share.
        train: trains one config.
        progress: is told of every run.

    Returns:
        Entry, rate and seed to the validation score of the run; NaN where it diverged.
    """

    def score(entry: Entry, rate: float, seed: int) -> float:
        progress.begin(run_label(entry, rate, seed))
        config = configured(base, entry, rate, seed)
        try:
            summary = train(config, f"select/{slug(entry)}-lr{rate:g}-seed{seed}")
        except Diverged:
            return math.nan
        value = float(summary[summary["score"].replace("test", "validation")])
        progress.scored(entry.name, value)
        return value

    return score


def run_label(entry: Entry, rate: float, seed: int) -> str:
    """What people call a run: ``AutoLR at 0.01, seed 1``."""
    return f"{entry.name} at {rate:g}, seed {seed}"


def tested(
    choice: Choice,
    base: FinetuneConfig,
    train: Train,
    protocol: Protocol,
    progress: Progress,
) -> dict[str, Any]:
    """Train a method at its chosen rate with every reporting seed, and test it.

    Args:
        choice: the method and its rate.
        base: what all methods share.
        train: trains one config.
        protocol: whose seeds are reported.
        progress: is told of every run, which it expects already.

    Returns:
        JSON: settings, everything tried, the chosen rate, test scores of every seed that did not diverge and
        how many did, and what they cost.

    Raises:
        Diverged: with every seed.
    """
    summaries, diverged = [], []
    for seed in protocol.seeds:
        progress.begin(run_label(choice.entry, choice.rate, seed))
        name = f"report/{slug(choice.entry)}-lr{choice.rate:g}-seed{seed}"
        try:
            summaries.append(train(configured(base, choice.entry, choice.rate, seed), name))
        except Diverged as error:
            diverged.append(error)
    if not summaries:
        raise diverged[0]
    metrics = [name for name in summaries[0] if name.startswith("test_")]
    return {
        "name": choice.entry.name,
        "settings": dict(choice.entry.settings),
        "tried": [
            {"rate": rate, "validation": [None if math.isnan(s) else s for s in scores]}
            for rate, scores in sorted(choice.tried.items())
        ],
        "rate": choice.rate,
        "at_edge": choice.at_edge,
        "diverged": len(diverged),
        "score": summaries[0]["score"],
        "test_images": summaries[0].get("images", {}).get("test"),
        "test": {name: [summary[name] for summary in summaries] for name in metrics},
        "epochs": [summary["epochs_trained"] for summary in summaries],
        "passes": [summary["passes"] for summary in summaries],
        "seconds": [summary["seconds"] for summary in summaries],
        "parameters": summaries[0]["parameters"],
        "parameters_trained": summaries[0]["parameters_trained"],
        "usage": [summary.get("usage") for summary in summaries],
        "tuned_block_counts": [summary.get("tuned_block_counts") for summary in summaries],
    }


def slug(entry: Entry) -> str:
    """The name of an entry as part of a file name."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in entry.name.replace(", ", "-"))


def _beyond(rates: Sequence[float]) -> float:
    """The rate after the last one: 0.01, 0.03, 0.1 go on with 0.3."""
    if len(rates) == 2:
        return float(f"{rates[-1] * rates[-1] / rates[-2]:.1g}")
    return float(f"{rates[-2] * rates[-1] / rates[-3]:.2g}")
