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

Contestants without a search: default (0.01; AdamW 0.001), fast_head (the same, the head ten times as fast), auto
(``--method=auto``), find and find_blocks (``--learning_rate``), prodigy and dowg (one estimate for all parts),
prodigy_blocks and dowg_blocks (one for each), autolr, autolr_rms and autolr_relative (AutoLR from 0.001, head 0.01,
with the three measures), and probe, which trains nothing: ridge regression on the features as pretrained.

Those that follow a grid: grid (single rates, widened while the best lies at an edge), single (the grid's best), and at
the grid's best rate layer_decay (0.75 a block), head_first (the head alone for the first fifth of the run), auto_rgn
and auto_snr.

Protocol and cells, written before their runs: docs/results.md, "Rates without a search".
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rates_table import CHOOSING, Log, figure, summary, table

GRID = {"sgd": (0.001, 0.003, 0.01, 0.03, 0.1), "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01)}
DEFAULT = {"sgd": 0.01, "adamw": 0.001}
REPORTING = (0, 1, 2)
OF_OPTIMIZER: Mapping[str, Mapping[str, Any]] = {
    "prodigy": {"optimizer": "prodigy"},
    "prodigy_blocks": {"optimizer": "prodigy", "block_estimates": True},
    "dowg": {"optimizer": "dowg"},
    "dowg_blocks": {"optimizer": "dowg", "block_estimates": True},
}
CONTESTANTS = (
    "grid", "single", "default", "probe", "fast_head", "auto", "find", "find_blocks", "layer_decay", "head_first",
    "auto_rgn", "auto_snr", *OF_OPTIMIZER, "autolr", "autolr_rms", "autolr_relative",
)  # fmt: skip
_HEAD_ALONE = 0.2  # of the steps of head_first


class Cell:
    """One network, optimiser and data set."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import jax

        from finetune_jax.config.settings import FinetuneConfig
        from finetune_jax.devices.replicas import local_replicas
        from finetune_jax.runs import finetune, start

        self.flags = FinetuneConfig(**{"method": "auto", "workdir": "unused", **settings})
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

        config = dataclasses.replace(self.settings.config, method=self.flags.method, seed=seed)
        images = dataclasses.replace(self.program.images, config=config)
        key = programs.run_key(config)
        begun = start.begin(
            config, self.origin, images.class_names, self.program.task,
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
        return 0.0

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

    def train_head_first(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Scores of a run in which the head learns alone at the beginning."""
        whole, steps = self.whole, self.whole.steps_of_run
        state = whole.begin()
        rows = [row for epoch in range(whole.plan.epochs) for row in whole.plan.order(epoch)]
        for number, row in enumerate(rows):
            factor = 0.5 * (1 + math.cos(math.pi * number / steps))
            alone = number < _HEAD_ALONE * steps
            of_step = {
                name: 0.0 if alone and name != "head" else rate * factor for name, rate in rates.items()
            }
            state = whole.step(state, of_step, row)
        self._measure(state)
        return self.scores

    def probe(self) -> dict[str, float]:
        """Scores of ridge regression, or for retrieval of the features themselves; counts the training images."""
        from finetune_jax.algorithms import transferability
        from finetune_jax.training import evaluation

        program, splits = self.program, self.program.images.splits
        network, normalize = program.method.network, program.normalize
        compute = evaluation.compile_evaluation(
            lambda variables, images: network.embed(variables, normalize(images)), program.replicas
        )
        variables = program.replicas.replicate(program.variables)
        features = {
            name: program.outputs(compute, variables, name) for name in ("train", "validation", "test")
        }
        if program.task.name == "retrieval":
            for split in ("validation", "test"):
                scores = program.task.scores(features[split], splits[split].labels, split)
                self.scores[split] = scores[f"{split}_{program.task.score}"]
            return self.scores
        self.rehearsals.cost.images_judged += len(features["train"])
        for split in ("validation", "test"):
            found = transferability.ridge_predictions(
                features["train"], splits["train"].labels, features[split]
            )
            self.scores[split] = float((found == splits[split].labels).mean())
        return self.scores

    def train_tuned(self, method: str, **settings: Any) -> dict[str, float]:
        """Scores of a run with the tuner of a method, whose trials count among the images of ``whole``."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from finetune_jax.algorithms import optimizers
        from finetune_jax.errors import Diverged
        from finetune_jax.training import gradient_signal
        from finetune_jax.training.divergence import measure_pass
        from finetune_jax.training.methods.registry import METHODS
        from finetune_jax.training.plan import Start
        from finetune_jax.training.tuning import Pass

        config = dataclasses.replace(self.config, method=method, schedule="constant", **settings)
        as_method: Any = METHODS[method](**vars(self.program.method))
        whole, tuner = self.whole, as_method.tuner(config, self.program.trained)
        state, tuning, epoch = whole.begin(), tuner.initial(), 0
        total, per_epoch = whole.steps_of_run, len(whole.plan.order(0))
        images = self.program.images
        signal = gradient_signal.measuring(
            self.program.objective, images.feeds["train"], whole.plan.order, tuner.blocks, whole.replicas
        )
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
            ratios = None
            if as_method.asks_signal:
                ratios = signal(state)
                whole.cost.images_trained += gradient_signal.BATCHES * whole.plan.batch_size
            try:
                tuning, verdict = tuner.judge(tuning, Pass(epoch, variations, bool(finite), ratios))
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
    elif name == "find_blocks":
        rate, _ = rate_finder.find(config, lambda config: rates.fixed(config, trained), search)
        factors, _ = rate_finder.find_factors(
            config, lambda config: rates.fixed(config, trained), search, rate
        )
        settings = {"rate_factors": tuple(f"{part}={factor:g}" for part, factor in factors.items())}
    elif name == "auto":
        begun = dataclasses.replace(config, learning_rate=DEFAULT[config.optimizer])
        found = dict(started.program.method.find(begun, search).settings)
        rate = found.pop("learning_rate")
        settings = found
    elif name == "fast_head":
        rate = DEFAULT[config.optimizer]
        settings = {"head_learning_rate": 10 * rate}
    elif name in OF_OPTIMIZER:
        rate = 1.0
    elif name == "probe":
        return started.probe()
    elif name == "head_first":
        return {**started.train_head_first(started.rates(best)), "rate": best}
    elif name in ("auto_rgn", "auto_snr"):
        return {**started.train_tuned(name, learning_rate=best), "rate": best}
    elif name.startswith("autolr"):
        of_paper = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
        measure = {"autolr": "mean"}.get(name, name.removeprefix("autolr_"))
        return {**started.train_tuned("autolr", variation=measure, **of_paper), "trials": started.trials}
    return {**started.train(started.rates(rate, **settings)), "rate": rate, **settings}


class Late(Exception):
    """There is no time for another run."""


def run_cell(
    cell: Callable[[Mapping[str, Any]], Cell],
    log: Log,
    contestants: list[str],
    seeds: tuple[int, ...],
    until: float = math.inf,
) -> None:
    """Train what has no line yet; ``cell`` is built of the settings in which a contestant's program differs.

    Raises:
        Late: the clock has passed ``until``, a time of ``time.monotonic``.
    """
    made: dict[str, Cell] = {}

    def started(contestant: str, seed: int) -> Started:
        settings = OF_OPTIMIZER.get(contestant, {})
        key = json.dumps(settings)
        if key not in made:
            made[key] = cell(settings)
        return made[key].of_seed(seed)

    def timed(contestant: str, seed: int, train: Callable[[Started], dict[str, Any]]) -> Mapping[str, Any]:
        if time.monotonic() > until:
            raise Late
        began, of_seed = time.monotonic(), started(contestant, seed)
        row: dict[str, Any] = {"contestant": contestant, "seed": seed, **train(of_seed)}
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
                timed(name, seed, functools.partial(contest, name, best=best))


def main() -> int:
    """Run a cell, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cell", default="")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--seeds", default=",".join(map(str, REPORTING)))
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many; then the status is 3"
    )
    parser.add_argument("--table", action="store_true", help="print what there is, and write costs.svg")
    parser.add_argument("settings", nargs="*", help="FinetuneConfig fields, NAME=VALUE")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    given.workdir.mkdir(parents=True, exist_ok=True)
    if given.table:
        cells = {file.stem: Log(file).rows for file in sorted(given.workdir.glob("*.jsonl"))}
        print(summary(cells), table(cells), sep="\n\n")
        (given.workdir / "costs.svg").write_bytes(figure(cells))
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

    def cell(changes: Mapping[str, Any]) -> Cell:
        return Cell({**settings, **({"method": "standard"} if changes else {}), **changes})

    try:
        run_cell(cell, log, given.contestants.split(","), seeds, until)
    except Late:
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
