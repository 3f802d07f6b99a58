r"""Which optimiser, rate and factor of the head the plain ``finetune`` command should have.

    python -m benchmarks.default_rates --workdir=runs/defaults \
        --case="clothing-300 dataset=folder:clothing images_per_class=30 image_size=32 epochs=10" \
        --case="cifar-500 dataset=folder:cifar images_per_class=50 pretrained=mobilenet_v2 image_size=64"

Protocol, fixed before the first run. A cell is a data set with a network, a case of the command. In every cell every
candidate of :data:`CANDIDATES`, an optimiser with its settings at one rate of a fixed grid, fine-tunes with every
seed; everything else is what ``finetune`` has by default. Its score is the mean over seeds of the validation accuracy
of its best epoch, for rates are chosen on validation; test accuracies are kept and choose nothing. Regret is how far
it is behind the best candidate of its cell, in points; a run that diverged scores 0.

Rule. The default becomes the candidate with the lowest mean regret over all cells, if that is lower than today's
default's by more than one point, and if its largest regret in any cell is no larger than today's. Otherwise it is a
tie and today's stays. Where the best rates of two networks are further apart than one step of the grid, the guides
say that no fixed rate is right for both.

Added after the first two cells had been seen, in which SGD at 0.03 was best for one network and blew up in the first
epoch of the other: SGD with warm-up and clipping. Added with a transformer, after all of these: AdamW at 0.0001. If
there AdamW at 0.001 is more than ten points behind the best, transformers get the best of its rates for a default.
Added when runs of other questions had shown that 0.00001 is better than 0.0001 on one of these cells: three rates below
it, with ``--today="AdamW, 0.0001"`` the same rule for the default of transformers, over cells of transformers alone.

Runs that are there already are not trained again, so it can be stopped and started, and cells can be added.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import cases
from finetune_jax.config.settings import RUNTIME_SETTINGS


class Candidate(NamedTuple):
    """An optimiser with its settings at one rate."""

    family: str
    settings: Mapping[str, Any]
    rate: float

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.family}, {self.rate:g}"


_FAMILIES: tuple[tuple[str, Mapping[str, Any], Sequence[float]], ...] = (
    ("SGD", {}, (0.003, 0.01, 0.03, 0.1)),
    ("SGD, head × 10", {"rate_factors": ("head=10",)}, (0.003, 0.01, 0.03)),
    ("AdamW", {"optimizer": "adamw"}, (3e-6, 1e-5, 3e-5, 0.0001, 0.0003, 0.001, 0.003)),
    (
        "AdamW, half an epoch of warm-up, clipping at 1",
        {"optimizer": "adamw", "warmup_epochs": 0.5, "clip_norm": 1.0},
        (0.001, 0.003),
    ),
    ("SGD, an epoch of warm-up, clipping at 1", {"warmup_epochs": 1.0, "clip_norm": 1.0}, (0.01, 0.03, 0.1)),
)
CANDIDATES = tuple(
    Candidate(family, settings, rate) for family, settings, rates in _FAMILIES for rate in rates
)
TODAY = "SGD, 0.01"
Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""``{cell: {candidate: validation accuracy of each seed}}``."""


def regrets(scores: Scores) -> dict[str, dict[str, float]]:
    """How far every candidate is behind the best one of its cell, ``{candidate: {cell: points}}``.

    >>> regrets({"a": {"slow": [0.5, 0.7], "fast": [0.65, 0.65]}})
    {'slow': {'a': 5.0}, 'fast': {'a': 0.0}}
    """
    behind: dict[str, dict[str, float]] = {}
    for cell, of_candidates in scores.items():
        means = {name: statistics.fmean(values) for name, values in of_candidates.items()}
        for name, mean in means.items():
            behind.setdefault(name, {})[cell] = round(100 * (max(means.values()) - mean), 2)
    return behind


def chosen(behind: Mapping[str, Mapping[str, float]], today: str = TODAY) -> str:
    """The default by the rule, ``today`` where it is a tie; of the candidates that were tried in every cell.

    >>> chosen({"old": {"a": 4.0, "b": 0.0}, "new": {"a": 0.0, "b": 1.0}}, "old")
    'new'
    >>> chosen({"old": {"a": 4.0, "b": 0.0}, "new": {"a": 0.0, "b": 5.0}}, "old")
    'old'
    """
    most = max(map(len, behind.values()))
    mean = {name: statistics.fmean(cells.values()) for name, cells in behind.items() if len(cells) == most}
    best = min(mean, key=mean.__getitem__)
    better = mean[today] - mean[best] > 1 and max(behind[best].values()) <= max(behind[today].values())
    return best if better else today


def table(scores: Scores) -> str:
    """All cells as a Markdown table of mean validation accuracies in percent, and the regrets."""
    behind = regrets(scores)
    lines = [
        f"| optimiser, rate | {' | '.join(scores)} | mean regret | largest |",
        "|---" * (len(scores) + 3) + "|",
    ]
    for name, cells in behind.items():
        shown = " | ".join(
            f"{100 * statistics.fmean(scores[cell][name]):.1f}" if name in scores[cell] else ""
            for cell in scores
        )
        # Of some cells alone it would be compared with those of others.
        mean = f"{statistics.fmean(cells.values()):.1f}" if len(cells) == len(scores) else ""
        lines.append(f"| {name} | {shown} | {mean} | {max(cells.values()):.1f} |")
    return "\n".join(lines)


def train(
    base: Any, runs: Any, candidates: Sequence[Candidate], seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Train what is missing in one cell.

    Args:
        base: the config of the cell.
        runs: trains, see ``studies.runs.Runs``; keeps ``scores.json``.
        candidates: to train.
        seeds: of each.

    Returns:
        ``{candidate: validation accuracy of each seed}``.
    """
    from finetune_jax.config.named_recipes import starting_config
    from finetune_jax.config.recipes import changed

    kept = runs.root / "scores.json"
    scores = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [candidate for candidate in candidates if len(scores.get(candidate.name, [])) < len(seeds)]
    changes = cases.changes_of(base)
    # Candidates of one program are trained together, which compiles once.
    for _, together in itertools.groupby(missing, lambda candidate: _program(candidate.settings)):
        group = list(together)
        starts = [
            starting_config(optimizer=candidate.settings.get("optimizer", "sgd")) for candidate in group
        ]
        configs = [
            changed(start, **{**changes, **candidate.settings, "learning_rate": candidate.rate})
            for start, candidate in zip(starts, group, strict=True)
        ]
        folders = [
            "".join(c if c.isalnum() or c == "." else "_" for c in candidate.name) for candidate in group
        ]
        of_seeds = [
            runs.together(
                [changed(config, seed=seed) for config in configs],
                [f"{folder}/seed{seed}" for folder in folders],
                [None] * len(group),
            )
            for seed in seeds
        ]
        for candidate, outcomes in zip(group, zip(*of_seeds, strict=True), strict=True):
            scores[candidate.name] = [
                0.0 if isinstance(outcome, Exception) else outcome["validation_accuracy"]
                for outcome in outcomes
            ]
            print(f"{candidate.name}: {scores[candidate.name]}", file=sys.stderr, flush=True)
        runs.write("scores.json", json.dumps(scores, indent=1))
    return scores


def _program(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the compiled step depends on."""
    return tuple((key, value) for key, value in settings.items() if key not in RUNTIME_SETTINGS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the table."""
    parser = cases.parser(__doc__, seeds=[1, 2])
    parser.add_argument("--families", nargs="+", default=[family for family, _, _ in _FAMILIES])
    names = [candidate.name for candidate in CANDIDATES]
    parser.add_argument("--candidates", nargs="+", choices=names, default=names)
    parser.add_argument("--today", choices=names, default=TODAY, help="the default that another has to beat")
    values = parser.parse_args(arguments)
    candidates = [
        candidate
        for candidate in CANDIDATES
        if candidate.family in values.families and candidate.name in values.candidates
    ]
    scores = {
        name: train(base, runs, candidates, values.seeds)
        for name, base, runs in cases.cells(values.case, values.epochs, values.workdir)
    }
    print(table(scores))
    if values.today in (behind := regrets(scores)):
        print(f"\nby the rule: {chosen(behind, values.today)}", flush=True)


if __name__ == "__main__":
    main()
