"""AutoLR against single rates, schedules and geometric rates: the paper's Tables 2 and 5 on any data set.

Classification: each method's rate is chosen on the validation split, and of the chosen runs the epoch too; the
test split is looked at once. Retrieval: rates are chosen by retrieving training classes that are held out;
the chosen ones then train on all training classes and are tested after the last epoch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.studies import comparison, prune
from finetune_jax.studies.comparison import Choice, Entry, Protocol, Train
from finetune_jax.studies.progress import Progress

SINGLE_RATE = "single rate"
AUTOLR = "AutoLR"

_ALTERNATIVES: Mapping[str, Mapping[str, Any]] = {
    "layer decay 0.75": {"layer_decay": 0.75},
    "discriminative 1/100": {"discriminative_ratio": 100.0},
}
# The best of each kind in the paper (supplement, Table 4), as shares of the run where they are epochs.
_SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "step decay": {"schedule": "step", "drop_factor": 0.5},
    "cyclic, 7 cycles": {"schedule": "cyclic", "cycles": 7, "lowest_factor": 0.1},
    "SGDR, 8 resets": {"schedule": "sgdr", "cycles": 9, "lowest_factor": 0.1},
}


def entries(depth: int, *, compare: bool, schedules: bool) -> list[Entry]:
    """The methods of the study.

    Args:
        depth: top blocks that pruning leaves out; 0 gives no pruned methods.
        compare: geometric rates and AutoLR without pruning too, instead of the paper's ablation (Table 2).
        schedules: also the schedules of the paper's Table 5, on the pruned network.
    """
    methods = {SINGLE_RATE: {}, **(_ALTERNATIVES if compare else {}), AUTOLR: {"method": "autolr"}}
    whole = methods if compare or not depth else {SINGLE_RATE: {}}
    pruned = {**methods, **(_SCHEDULES if schedules else {})} if depth else {}
    if schedules and not depth:
        whole = {**whole, **_SCHEDULES}
    return [
        *[Entry(name, settings) for name, settings in whole.items()],
        *[Entry(f"{name}, pruned {depth}", {**s, "prune_depth": depth}) for name, s in pruned.items()],
    ]


def run(
    base: FinetuneConfig,
    train: Train,
    protocol: Protocol,
    *,
    compare: bool,
    schedules: bool,
    max_depth: int | None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search the pruning depth, choose the rates, test.

    Args:
        base: what all methods share, of ``--method=standard``; its own starting rate and seed do not count.
        train: trains one config.
        protocol: rates and seeds.
        compare: see :func:`entries`.
        schedules: see :func:`entries`.
        max_depth: largest pruning depth to try; None has no limit.
        progress: is told of every run.

    Returns:
        JSON: ``pruning`` of ``studies.prune``, ``entries`` (per method: settings, everything tried, the
        chosen rate, test scores of every seed, passes, seconds) and ``configurations``, how many were tried.

    Raises:
        UserError: a method diverged at every rate.
    """
    selecting = _selecting(base)

    progress = progress or Progress()
    score = comparison.scorer(selecting, train, progress)

    def choose(of: Sequence[Entry]) -> list[Choice]:
        try:
            return comparison.choose(of, protocol, score, progress)
        except ValueError as error:
            raise UserError(f"{error}; give lower --rates") from error

    # Algorithm 1 prunes with a single rate: the one that is best without pruning.
    (single,) = choose([Entry(SINGLE_RATE, {})])
    pruned = prune.search(
        changed(selecting, learning_rate=single.rate),
        train,
        seeds=protocol.selection_seeds,
        max_depth=max_depth,
        progress=progress,
    )
    choices = choose(entries(pruned["best_depth"], compare=compare, schedules=schedules))
    progress.expect(len(choices) * len(protocol.seeds))
    results = [comparison.tested(choice, _reporting(base), train, protocol, progress) for choice in choices]
    tried = sum(len(choice.tried) for choice in choices)
    return {
        "dataset": base.dataset,
        "protocol": dataclasses.asdict(protocol),
        "pruning": pruned,
        "entries": results,
        "configurations": tried + len(pruned["depths"]),
    }


def _selecting(base: FinetuneConfig) -> FinetuneConfig:
    return dataclasses.replace(base, select_on="last") if base.protocol == "retrieval" else base


def _reporting(base: FinetuneConfig) -> FinetuneConfig:
    if base.protocol == "retrieval":
        return dataclasses.replace(base, select_on="last", validation_fraction=0.0)
    return base
