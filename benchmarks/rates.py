"""Rates without a search against a grid of rates: score and cost from equal starts.

    python -m benchmarks.rates --workdir=runs/rates --cell=clothing dataset=folder:clothing images_per_class=40 \
        image_size=32 --contestants=grid,single,auto,find
    python -m benchmarks.rates --workdir=runs/rates --table

A cell is a network with its weights, an optimiser and a data set. All runs of it start from the same weights but for
the head, which is the seed's, see the same images in the order of the seed, and their rates fall by a cosine at every
step. Validation and test images are looked at once, after the last step; rates of a grid are chosen on validation with
seed 100, results are of the seeds 0, 1, 2. Costs are images forward and backward, those that only went forward for a
choice count a third; those of the grid are all that it took to choose. Every run is one line of CELL.jsonl, and none
that has a line is trained again: after a stop the same command goes on.

Contestants: grid (single rates, widened while the best lies at an edge), single (the grid's best), default (0.01; AdamW
0.001), layer_decay (0.75 a block, at the grid's best rate), auto, find, auto_rgn (at the grid's best rate), autolr,
autolr_rms and autolr_relative (AutoLR from 0.001, head 0.01, with the three measures).
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

GRID = {"sgd": (0.001, 0.003, 0.01, 0.03, 0.1), "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01)}
DEFAULT = {"sgd": 0.01, "adamw": 0.001}
CHOOSING, REPORTING = 100, (0, 1, 2)
PROMISED = 7 / 4  # runs: a quarter of a grid of seven rates
CONTESTANTS = (
    "grid", "single", "default", "auto", "find", "layer_decay", "auto_rgn", "autolr", "autolr_rms", "autolr_relative",
)  # fmt: skip


class Cell:
    """One network, optimiser and data set."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import jax

        from finetune_jax.config.settings import FinetuneConfig
        from finetune_jax.devices.replicas import local_replicas
        from finetune_jax.runs import finetune, start

        self.flags = FinetuneConfig(method="auto", workdir="unused", **settings)
        self.origin = start.load_origin(self.flags)
        # Built as of a standard run: nothing is searched, and the step is the same.
        standard = dataclasses.replace(self.flags, method="standard")
        self.program, self.settings = finetune.prepare(standard, local_replicas(jax.devices()[:1]))
        self.scores: dict[str, float] = {}

    def of_seed(self, seed: int) -> "Started":
        """The start of runs with a seed."""
        import jax

        from finetune_jax.runs import program as programs
        from finetune_jax.runs import start
        from finetune_jax.training.methods import registry

        config = dataclasses.replace(self.settings.config, method="auto", seed=seed)
        images = dataclasses.replace(self.program.images, config=config)
        key = programs.run_key(config)
        begun = start.begin(
            config, self.origin, images.class_names, self.program.task.head,
            jax.random.fold_in(key, programs.HEAD_STREAM), images.image_size,
        )  # fmt: skip
        method = registry.create(config, self.program.method.network, begun.variables, key)
        program = dataclasses.replace(
            self.program, key=key, images=images, method=method, variables=begun.variables
        )
        return Started(self, program, dataclasses.replace(self.settings, flags=self.flags, config=config))


class Started:
    """Runs from one start."""

    def __init__(self, cell: Cell, program: Any, settings: Any) -> None:
        from finetune_jax.runs import rate_search
        from finetune_jax.training.rehearsal import Cost

        self.program, self.settings, self.config = program, settings, settings.config
        self.rehearsals = rate_search.rehearsals_of(program, settings)
        self.whole = dataclasses.replace(
            self.rehearsals, held_out=self.rehearsals.held_out[:0], loss=self._measure, log=[], cost=Cost()
        )
        self.scores: dict[str, float] = {}

    def _measure(self, state: Any) -> float:
        program = self.program
        for split in ("validation", "test"):
            outputs = program.outputs(program.predict, state.variables, split)
            scores = program.task.scores(outputs, program.images.splits[split].labels, split)
            self.scores[split] = scores[f"{split}_{program.task.score}"]
        return scores["test_loss"]

    def rates(self, rate: float, **settings: Any) -> dict[str, float]:
        """``{part: rate}`` of settings."""
        from finetune_jax.training import rate_finder, rates

        config = dataclasses.replace(self.config, **settings)
        trained = self.program.trained
        return dict(rate_finder.rates_at(config, lambda config: rates.fixed(config, trained), rate))

    def train(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Scores of the whole run; none where it diverged."""
        self.scores = {"validation": math.nan, "test": math.nan}
        self.whole.run(rates, self.whole.steps_of_run)
        return self.scores

    def train_tuned(self, method: str, **settings: Any) -> dict[str, float]:
        """Scores of a run with the tuner of a method, whose trials count among the images of ``whole``."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from finetune_jax.algorithms import optimizers
        from finetune_jax.errors import Diverged
        from finetune_jax.training.divergence import measure_pass
        from finetune_jax.training.methods.registry import METHODS
        from finetune_jax.training.plan import Start
        from finetune_jax.training.tuning import Pass

        config = dataclasses.replace(self.config, method=method, schedule="constant", **settings)
        as_method: Any = METHODS[method](**vars(self.program.method))
        whole, tuner = self.whole, as_method.tuner(config, self.program.trained)
        state, tuning, epoch = whole.begin(), tuner.initial(), 0
        total, per_epoch = whole.steps_of_run, len(whole.plan.order(0))
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self.trials = 0
        while epoch < whole.plan.epochs:
            start = Start(*copy((state.params, state.batch_stats)))
            if tuner.can_reject:
                state = state.replace(opt_state=optimizers.reset(state.opt_state))
            peaks = tuner.rates(tuning, epoch)
            for number, row in enumerate(whole.plan.order(epoch)):
                factor = 0.5 * (1 + math.cos(math.pi * (epoch * per_epoch + number) / total))
                state = whole.step(state, {name: rate * factor for name, rate in peaks.items()}, row)
            variations, finite = jax.device_get(measure_pass(tuner.blocks, tuner.measure)(start, state))
            self.trials += 1
            try:
                tuning, verdict = tuner.judge(tuning, Pass(epoch, variations, bool(finite)))
            except Diverged:
                return {"validation": math.nan, "test": math.nan}
            if verdict.accepted:
                epoch += 1
                continue
            step = whole.replicas.replicate(np.asarray(epoch * per_epoch, np.int32))
            state = state.replace(params=start.params, batch_stats=start.batch_stats, step=step)
        self._measure(state)
        return self.scores


def contest(name: str, started: Started, best: float) -> dict[str, Any]:
    """One run of a contestant: its scores, what it chose, and what the choice took."""
    from finetune_jax.training import rate_finder, rates

    config, search, trained = started.config, started.rehearsals, started.program.trained
    rate, settings = best, dict[str, Any]()
    if name == "default":
        rate = DEFAULT[config.optimizer]
    elif name == "layer_decay":
        settings = {"layer_decay": 0.75}
    elif name == "find":
        rate, _ = rate_finder.find(config, lambda config: rates.fixed(config, trained), search)
    elif name == "auto":
        begun = dataclasses.replace(config, learning_rate=DEFAULT[config.optimizer])
        found = dict(started.program.method.find(begun, search).settings)
        rate = found.pop("learning_rate")
        settings = found
    elif name == "auto_rgn":
        return {**started.train_tuned(name, learning_rate=best), "rate": best}
    elif name.startswith("autolr"):
        of_paper = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
        measure = {"autolr": "mean"}.get(name, name.removeprefix("autolr_"))
        return {**started.train_tuned("autolr", variation=measure, **of_paper), "trials": started.trials}
    return {**started.train(started.rates(rate, **settings)), "rate": rate, **settings}


class Log:
    """The lines of a cell."""

    def __init__(self, file: Path) -> None:
        self.file = file
        text = file.read_text().splitlines() if file.exists() else []
        self.rows = [json.loads(line) for line in text]

    def get(self, contestant: str, seed: int, rate: float | None = None) -> dict[str, Any] | None:
        for row in self.rows:
            if (row["contestant"], row["seed"]) == (contestant, seed) and rate in (None, row.get("rate")):
                return row
        return None

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row


def run_cell(cell: Callable[[], Cell], log: Log, contestants: list[str], seeds: tuple[int, ...]) -> None:
    """Train what has no line yet."""
    made: list[Cell] = []

    def started(seed: int) -> Started:
        made[:] = made or [cell()]
        return made[0].of_seed(seed)

    def timed(contestant: str, seed: int, train: Callable[[Started], dict[str, Any]]) -> dict[str, Any]:
        began, of_seed = time.monotonic(), started(seed)
        row = {"contestant": contestant, "seed": seed, **train(of_seed)}
        row["trained"] = of_seed.whole.cost.images_trained + of_seed.rehearsals.cost.images_trained
        row["judged"] = of_seed.rehearsals.cost.images_judged
        return log.add({**row, "seconds": round(time.monotonic() - began, 1)})

    def validation(rate: float) -> float:
        row = log.get("grid", CHOOSING, rate) or timed(
            "grid", CHOOSING, lambda of: {**of.train(of.rates(rate)), "rate": rate}
        )
        return -1.0 if row["validation"] is None or math.isnan(row["validation"]) else row["validation"]

    optimizer = json.loads((log.file.with_suffix(".json")).read_text()).get("optimizer", "sgd")
    grid = list(GRID[optimizer])
    if "grid" in contestants:
        for _ in range(4):
            scores = {rate: validation(rate) for rate in grid}
            best = max(scores, key=scores.__getitem__)
            if best not in (grid[0], grid[-1]):
                break
            beyond = best * (10 / 3 if f"{best:.0e}"[0] == "3" else 3) if best == grid[-1] else None
            lower = best / (3 if f"{best:.0e}"[0] == "3" else 10 / 3) if best == grid[0] else None
            grid = sorted({*grid, *[float(f"{rate:.1g}") for rate in (beyond, lower) if rate]})
    rows = [row for row in log.rows if row["contestant"] == "grid"]
    best = max(rows, key=lambda row: -1.0 if math.isnan(row["validation"]) else row["validation"])["rate"]
    for name in contestants:
        for seed in seeds if name != "grid" else ():
            if log.get(name, seed) is None:
                timed(name, seed, lambda of, name=name: contest(name, of, best))


@dataclasses.dataclass(frozen=True)
class Result:
    """A contestant in a cell.

    Attributes:
        name: of the contestant.
        scores: test accuracy of each seed.
        rates: of each seed, empty where there is not one.
        cost: images forward and backward for one run, with all that it took to choose its rate.
    """

    name: str
    scores: list[float]
    rates: list[float]
    cost: float

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Sample standard deviation; 0 of a single score."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def results(log: Log) -> tuple[float, list[Result]]:
    """Images of one run, and the contestants that have runs."""
    grid = [_cost(row) for row in log.rows if row["contestant"] == "grid"]
    whole, found = sum(grid), []
    for name in CONTESTANTS[1:]:
        rows = [row for row in log.rows if row["contestant"] == name]
        if rows:
            own = statistics.fmean(map(_cost, rows))
            rates = [row["rate"] for row in rows if "rate" in row]
            # The best of the grid has been trained in it.
            cost = {"single": whole, "layer_decay": whole + own, "auto_rgn": whole + own}.get(name, own)
            found.append(Result(name, [row["test"] for row in rows], rates, cost))
    return grid[0], found


def table(logs: list[Log]) -> str:
    """Markdown of all cells."""
    head = ("contestant", "rates", "test accuracy", "regret", "", "images", "in runs", "promise")
    lines = []
    for log in logs:
        of_run, contestants = results(log)
        single = next((found for found in contestants if found.name == "single"), None)
        lines += ["", f"### {log.file.stem}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for found in contestants:
            cells = [
                found.name,
                ", ".join(f"{rate:.2g}" for rate in dict.fromkeys(found.rates)),
                f"{100 * found.mean:.2f} ± {100 * found.spread:.2f} ({len(found.scores)})",
            ]
            if single is not None:
                regret = single.mean - found.mean
                tie = regret <= max(single.spread, found.spread)
                kept = tie and found.cost <= PROMISED * of_run
                cells += [f"{100 * regret:+.2f}", "tie" if tie else "behind", f"{found.cost:,.0f}"]
                cells += [f"{found.cost / of_run:.2f}", "kept" if kept else ""]
            lines.append(f"| {' | '.join(cells)} |")
        tried = sorted((row["rate"], row["validation"]) for row in log.rows if row["contestant"] == "grid")
        lines += ["", "Grid: " + ", ".join(f"{rate:g}: {100 * score:.2f}" for rate, score in tried)]
    return "\n".join(lines)


def figure(logs: list[Log]) -> bytes:
    """Cost against score, a panel for each cell; SVG."""
    from finetune_jax.reports.figures import canvas

    columns = min(3, len(logs))
    rows = -(-len(logs) // columns)
    drawn, axes = canvas.new(rows, columns, (4.2 * columns, 3.4 * rows), squeeze=False)
    for axis, log in zip(axes.flat, logs, strict=False):
        of_run, contestants = results(log)
        axis.axvspan(0.8, PROMISED, color=canvas.GREY, alpha=0.12, lw=0)
        for number, found in enumerate(contestants):
            color = canvas.COLORS[number % len(canvas.COLORS)]
            cost = found.cost / of_run
            axis.errorbar(cost, 100 * found.mean, 100 * found.spread, fmt="o", color=color, capsize=3)
            axis.annotate(
                found.name,
                (cost, 100 * found.mean),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set_xscale("log")
        axis.set_xlim(0.8, 12)
        axis.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axis.minorticks_off()
        axis.set_title(log.file.stem, fontsize=9)
        axis.set_xlabel("cost, in runs")
        axis.set_ylabel("test accuracy, %")
    for axis in axes.flat[len(logs) :]:
        axis.set_visible(False)
    return canvas.encode(drawn, "svg")


def _cost(row: Mapping[str, Any]) -> float:
    return row["trained"] + row["judged"] / 3


def main() -> int:
    """Run a cell, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cell", default="")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--seeds", default=",".join(map(str, REPORTING)))
    parser.add_argument("--table", action="store_true", help="print what there is, and write costs.svg")
    parser.add_argument("settings", nargs="*", help="FinetuneConfig fields, NAME=VALUE")
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    if given.table:
        logs = [Log(file) for file in sorted(given.workdir.glob("*.jsonl"))]
        print(table(logs))
        (given.workdir / "costs.svg").write_bytes(figure(logs))
        return 0
    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    known = declared(FinetuneConfig)
    pairs = dict(pair.split("=", 1) for pair in given.settings)
    settings = {name: type(known[name].default)(value) for name, value in pairs.items()}
    (given.workdir / f"{given.cell}.json").write_text(json.dumps(settings) + "\n")
    seeds = tuple(map(int, given.seeds.split(",")))
    log = Log(given.workdir / f"{given.cell}.jsonl")
    run_cell(lambda: Cell(settings), log, given.contestants.split(","), seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
