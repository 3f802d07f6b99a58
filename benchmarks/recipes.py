r"""Whether what practitioners switch on beats plain fine-tuning, at equal epochs and each at the rate that suits it.

    python -m benchmarks.recipes --workdir=runs/recipes \
        --case="clothing-300 dataset=folder:clothing images_per_class=30 image_size=32" \
        --case="cifar-500 dataset=folder:cifar images_per_class=50 pretrained=mobilenet_v2 image_size=64"

Protocol, fixed before the first run. Every contestant fine-tunes the same network on the same images for
``--epochs`` epochs in batches of 32. Its learning rate is one of a lattice of half decades (…, 0.003, 0.01, 0.03,
…): it tries three, and neighbours of the best as long as one of them is untried, so that no best rate lies at an
edge; the score is the validation accuracy of the best epoch with the first of ``--seeds``. At that rate it trains
with every seed, and the epoch that is best on validation is tested once. Nothing is chosen by a test score.
Contestants: see :data:`CONTESTANTS`; those that average trained networks take the runs of plain SGD. A mean that
differs from plain SGD's by no more than the larger of two standard deviations over the seeds is called a tie. LP-FT
trains the head alone for two epochs, but never for more than half of them, and needs two at least; warm-up takes half
an epoch, but never more than a quarter of all.

The same command goes on after a stop, and with other ``--contestants`` the same case. ``results.json`` of each case
keeps everything that was tried; the tables are printed as Markdown after every case.
"""

import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases

ALPHAS = (0.25, 0.5, 0.75, 1.0)
"""Shares of the trained weights that ``between`` tries."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What is compared.

    Attributes:
        name: for the table.
        settings: what sets it apart, fields of the config.
        start: place of the middle one of its first three rates on the lattice.
        averages: ``between`` the pretrained weights and those of plain SGD, or a ``soup`` of plain SGD at the
            best rate and its neighbours; empty trains.
    """

    name: str
    settings: Mapping[str, Any]
    start: int
    averages: str = ""


_ADAMW = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "decay_norms": False,
    "schedule_by": "step",
    "warmup_epochs": 0.5,
    "clip_norm": 1.0,
}
_FAST_HEAD = {"rate_factors": ("head=10",)}
PLAIN = Contestant("SGD + cosine", {}, -4)
CONTESTANTS = (
    PLAIN,
    Contestant("head 10 times as fast", _FAST_HEAD, -5),
    Contestant("AdamW + warm-up + clipping", _ADAMW, -6),
    Contestant("EMA", {"ema_decay": 0.99}, -4),
    Contestant("mixup / CutMix", {"mixup": 0.2, "cutmix": 1.0, "mix_probability": 0.5}, -4),
    Contestant("TrivialAugment", {"augmentation": "trivial_augment"}, -4),
    Contestant("LP-FT", {"head_epochs": 2, "warmup_epochs": 0.5}, -4),
    Contestant("AdamW …, EMA, fast head", {**_ADAMW, **_FAST_HEAD, "ema_decay": 0.99}, -7),
    Contestant("WiSE-FT", {}, -4, "between"),
    Contestant("soup of three rates", {}, -4, "soup"),
)


def settings_in(contestant: Contestant, epochs: int) -> Mapping[str, Any]:
    """The settings of a contestant in a training of some epochs.

    >>> lp_ft = Contestant("LP-FT", {"head_epochs": 2, "warmup_epochs": 0.5}, -4)
    >>> settings_in(lp_ft, 5), settings_in(lp_ft, 2)
    ({'head_epochs': 2, 'warmup_epochs': 0.5}, {'head_epochs': 1, 'warmup_epochs': 0.5})
    """
    most = {"head_epochs": max(epochs // 2, 1), "warmup_epochs": epochs / 4}
    return {
        name: min(value, most[name]) if name in most else value for name, value in contestant.settings.items()
    }


def rate_at(place: int) -> float:
    """The rate of a place on the lattice.

    >>> rate_at(-4), rate_at(-5)
    (0.01, 0.003)
    """
    return float(f"{10 ** (place / 2):.1g}")


def walk(start: int, scores_of: Callable[[Sequence[int]], Sequence[float]]) -> tuple[int, dict[int, float]]:
    """The best place of a lattice, and the score of every place that was tried.

    >>> walk(0, lambda places: [-abs(place - 2) for place in places])
    (2, {-1: -3, 0: -2, 1: -1, 2: 0, 3: -1})

    Args:
        start: the middle one of the first three places.
        scores_of: places to their scores, NaN where one is no choice.
    """
    tried: dict[int, float] = {}
    untried = [start - 1, start, start + 1]
    while untried:
        tried |= dict(zip(untried, scores_of(untried), strict=True))
        finite = {place: score for place, score in sorted(tried.items()) if not math.isnan(score)}
        if not finite:
            untried = [min(tried) - 1]
            continue
        best = max(finite, key=finite.__getitem__)
        untried = [place for place in (best - 1, best + 1) if place not in tried]
    return best, dict(sorted(tried.items()))


class Comparison:
    """All contestants on one case."""

    def __init__(self, base: Any, runs: Any, seeds: Sequence[int]) -> None:
        """Prepare.

        Args:
            base: the config that all share.
            runs: trains, see ``studies.runs.Runs``.
            seeds: of the reported runs; the first one also chooses rates.
        """
        self._base, self._runs, self._seeds = base, runs, seeds
        self._plain_rate: int | None = None

    def result(self, contestant: Contestant) -> dict[str, Any]:
        """What was tried of a contestant, its rate, and its test accuracies."""
        first = self._seeds[0]
        if contestant.averages == "soup":
            assert self._plain_rate is not None
            best, tried = self._plain_rate, dict[int, float]()
        else:
            best, tried = walk(
                contestant.start,
                lambda places: [
                    math.nan if outcome is None else outcome["validation"]
                    for outcome in self._outcomes(contestant, places, first)
                ],
            )
        if contestant is PLAIN:
            self._plain_rate = best
        outcomes = [self._outcomes(contestant, [best], seed)[0] for seed in self._seeds]
        return {
            "name": contestant.name,
            "settings": dict(settings_in(contestant, self._base.epochs)),
            "rate": rate_at(best),
            "tried": {f"{rate_at(place):g}": score for place, score in tried.items()},
            "outcomes": outcomes,
        }

    def _outcomes(
        self, contestant: Contestant, places: Sequence[int], seed: int
    ) -> list[dict[str, Any] | None]:
        """Validation and test accuracy at several rates with one seed; None where training diverged."""
        if contestant.averages:
            return [self._averaged(contestant.averages, place, seed) for place in places]
        return self._train(contestant, places, seed)

    def _train(self, contestant: Contestant, places: Sequence[int], seed: int) -> list[dict[str, Any] | None]:
        from finetune_jax.config.recipes import changed

        settings = settings_in(contestant, self._base.epochs)
        configs = [
            changed(self._base, **{**settings, "learning_rate": rate_at(place), "seed": seed})
            for place in places
        ]
        names = [self._run_name(contestant, place, seed) for place in places]
        outcomes = self._runs.together(configs, names, [None] * len(configs))
        return [
            None
            if isinstance(outcome, Exception)
            else {
                "validation": outcome["validation_accuracy"],
                "test": outcome["test_accuracy"],
                "weights": outcome.get("weights", "weights"),
                "seconds": outcome["seconds"],
            }
            for outcome in outcomes
        ]

    def _averaged(self, averages: str, place: int, seed: int) -> dict[str, Any] | None:
        kept = self._runs.root / "averages" / f"{averages}-lr{rate_at(place):g}-seed{seed}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        places = [place - 1, place, place + 1] if averages == "soup" else [place]
        trained = self._train(PLAIN, places, seed)
        folders = [
            self._runs.root / "runs" / self._run_name(PLAIN, other, seed)
            for other, outcome in zip(places, trained, strict=True)
            if outcome is not None
        ]
        if not folders or (averages == "soup" and len(folders) < 2):
            return None
        outcome = _between(folders[0], self._runs) if averages == "between" else _soup(folders, self._runs)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(outcome))
        return outcome

    def _run_name(self, contestant: Contestant, place: int, seed: int) -> str:
        name = "".join(c if c.isalnum() else "_" for c in contestant.name)
        return f"{name}/lr{rate_at(place):g}-seed{seed}"


def _between(folder: Path, runs: Any) -> dict[str, Any]:
    from finetune_jax.runs import interpolate

    curve = interpolate.interpolate(folder, ALPHAS, runs.replicas)
    return {
        **{split: curve.scores[split][curve.chosen] for split in ("validation", "test")},
        "alpha": curve.alphas[curve.chosen],
    }


def _soup(folders: Sequence[Path], runs: Any) -> dict[str, Any]:
    from finetune_jax.runs import interpolate

    soup = interpolate.soup(folders, runs.replicas)
    return {**{split: soup.scores[split] for split in ("validation", "test")}, "of": len(soup.chosen)}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Results of one case as a Markdown table; every contestant is compared with the first."""
    lines = [
        "| contestant | rates tried: validation, % | rate | test, % | mean ± deviation | against plain |",
        "|---|---|---|---|---|---|",
    ]
    plain = _tests(results[0])
    for result in results:
        tried = ", ".join(
            f"{rate}: {'diverged' if math.isnan(score) else f'{100 * score:.1f}'}"
            for rate, score in result["tried"].items()
        )
        tests = _tests(result)
        shown = " / ".join(f"{score:.1f}" for score in tests)
        mean, spread = statistics.fmean(tests), _spread(tests)
        gap = mean - statistics.fmean(plain)
        verdict = "tie" if abs(gap) <= max(spread, _spread(plain)) else f"{gap:+.1f}"
        verdict = "" if result is results[0] else verdict
        lines.append(
            f"| {result['name']} | {tried} | {result['rate']:g} | {shown} | {mean:.1f} ± {spread:.1f} | {verdict} |"
        )
    return "\n".join(lines)


def in_order(results: Mapping[str, Any]) -> list[Any]:
    """Results by the name of their contestants, as a list in the order of :data:`CONTESTANTS`."""
    return [results[contestant.name] for contestant in CONTESTANTS if contestant.name in results]


def _tests(result: Mapping[str, Any]) -> list[float]:
    return [math.nan if outcome is None else 100 * outcome["test"] for outcome in result["outcomes"]]


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print the tables."""
    parser = cases.parser(__doc__, seeds=[1, 2, 3])
    parser.add_argument("--contestants", nargs="+", default=[contestant.name for contestant in CONTESTANTS])
    flags = parser.parse_args(arguments)
    for text, (name, base, runs) in zip(
        flags.case, cases.cells(flags.case, flags.epochs, flags.workdir), strict=True
    ):
        comparison = Comparison(base, runs, flags.seeds)
        kept = runs.root / "results.json"
        results = {result["name"]: result for result in json.loads(kept.read_text())} if kept.exists() else {}
        for contestant in CONTESTANTS:
            if contestant is not PLAIN and contestant.name not in flags.contestants:
                continue
            results[contestant.name] = comparison.result(contestant)
            runs.write("results.json", json.dumps(in_order(results), indent=1))
            print(
                f"{name}: {contestant.name} {_tests(results[contestant.name])}", file=sys.stderr, flush=True
            )
        print(f"\n{text}\n\n{table(in_order(results))}\n", flush=True)


if __name__ == "__main__":
    main()
