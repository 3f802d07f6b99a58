"""Rates without a search against a grid of rates: score and cost from equal starts.

    python -m benchmarks.rates --workdir=runs/rates --cell=clothing dataset=folder:clothing images_per_class=40 \
        image_size=32 --contestants=grid,single,auto,find
    python -m benchmarks.rates --workdir=runs/rates --table --series=COMMIT

A cell is a network with its weights, an optimiser and a data set. All runs of it start from the same weights but for
the head, which is the seed's, see the same images in the order of the seed, and their rates fall by a cosine at every
step. Validation and test images are looked at once, after the last step; rates of a grid are chosen on validation with
seed 100, results are of the seeds 0, 1, 2. Costs are images forward and backward, those that only went forward for a
choice count a third; those of the grid are all that it took to choose. Every run is one line of CELL.jsonl, and none
that has a line is trained again: after a stop the same command goes on. Where a cell has no line of a grid and grid is
not asked for, the grid recorded in docs/lab/rates.csv counts, into which ``--table`` writes what the lines in the
workdir come to (:mod:`benchmarks.rates_record`): tables and figure need no more than that file.

Contestants without a search: default (0.01; AdamW 0.001), default_tenth (a tenth of it), fast_head (the default rate,
the head ten times as fast), auto (``--method=auto`` with a head at ten times the default rate whatever it finds, as it
was), find and find_blocks (``--learning_rate``), prodigy and dowg (one estimate for all parts), prodigy_blocks and
dowg_blocks (one for each), dog, dadapt (of AdamW) and mechanic (around AdamW), similarity (``--learning_rate=auto``),
the ideas of :mod:`benchmarks.rates_ideas`, autolr, autolr_rms and autolr_relative (AutoLR from 0.001, head 0.01, with
the three measures), autolr_stages, autolr_geometric, autolr_ratio and autolr_first (with one of its settings changed),
autolr_parts (with all four and relative movement), and probe, which trains nothing: ridge regression on the features
as pretrained.

Those that follow a grid: grid (single rates, widened while the best lies at an edge), single (the grid's best),
and at the grid's best rate layer_decay (0.75 a block), head_first (the head alone for the first fifth of the
run), auto_rgn, auto_rgn_tensors (over kernels), auto_rgn_renewed (without the momentum of the epoch before),
auto_snr, autolr_best and autolr_best_relative (AutoLR from there, with two of the measures). With settings and a rate
that are searched once more after the grid, at its best rate and the next higher one: decay_grid (layer decay) and
slice_grid (discriminative ratio).

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

from benchmarks import rates_ideas, rates_record
from benchmarks.rates_record import CHOOSING
from benchmarks.rates_start import Cell, Started
from benchmarks.rates_table import Log, figure, figure_in_short, summary, table

GRID = {"sgd": (0.001, 0.003, 0.01, 0.03, 0.1), "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01)}
DEFAULT = {"sgd": 0.01, "adamw": 0.001}
REPORTING = (0, 1, 2)
RECORD = Path(__file__).parents[1] / "docs" / "lab" / "rates.csv"
OF_OPTIMIZER: Mapping[str, Mapping[str, Any]] = {
    "prodigy": {"optimizer": "prodigy"},
    "prodigy_blocks": {"optimizer": "prodigy", "block_estimates": True},
    "dowg": {"optimizer": "dowg"},
    "dowg_blocks": {"optimizer": "dowg", "block_estimates": True},
    "dog": {"optimizer": "dog"},
    "dadapt": {"optimizer": "dadapt_adamw"},
    "mechanic": {"optimizer": "mechanize"},
}
TUNED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "auto_rgn": ("auto_rgn", {}),
    "auto_rgn_tensors": ("auto_rgn", {"rgn_over": "tensors"}),
    "auto_rgn_renewed": ("auto_rgn", {"renew_optimizer": True}),
    "auto_snr": ("auto_snr", {}),
}
"""A method, and settings of it."""
AUTOLR: Mapping[str, Mapping[str, Any]] = {
    "autolr": {},
    "autolr_rms": {"variation": "rms"},
    "autolr_relative": {"variation": "relative"},
    "autolr_stages": {"tuned_over": "stages"},
    "autolr_geometric": {"target_spacing": "geometric"},
    "autolr_ratio": {"target_ratio": 10.0},
    "autolr_first": {"tuned_epochs": 1},
    "autolr_parts": {
        "variation": "relative",
        "tuned_over": "stages",
        "target_spacing": "geometric",
        "target_ratio": 10.0,
        "tuned_epochs": 1,
    },
}
AUTOLR_AT_BEST: Mapping[str, Mapping[str, Any]] = {
    "autolr_best": {},
    "autolr_best_relative": {"variation": "relative"},
}
OF_PROGRAM: Mapping[str, Mapping[str, Any]] = {
    **OF_OPTIMIZER,
    "auto_rgn_tensors": {"rgn_over": "tensors"},
}
"""Settings in which the program of a contestant differs."""
GRIDS_OF_SETTINGS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "decay_grid": ("layer_decay", (0.65, 0.75, 0.9)),
    "slice_grid": ("discriminative_ratio", (3.0, 10.0, 30.0)),
}
CONTESTANTS = (
    "grid", "single", "default", "default_tenth", "probe", "fast_head", "auto", "find", "find_blocks", "layer_decay",
    "head_first", *TUNED, *OF_OPTIMIZER, "similarity", *GRIDS_OF_SETTINGS, *rates_ideas.IDEAS,
    *AUTOLR, *AUTOLR_AT_BEST,
)  # fmt: skip


def contest(name: str, started: Started, best: float, log: Log, seed: int) -> dict[str, Any]:
    """One run of a contestant: its scores, what it chose, and what the choice took."""
    from finetune_jax.training import rate_finder, rates

    config, search, trained = started.config, started.rehearsals, started.program.trained
    rate, settings = best, dict[str, Any]()
    if name == "default_tenth":
        rate = DEFAULT[config.optimizer] / 10
    elif name == "default":
        rate = DEFAULT[config.optimizer]
        same = log.get("single", seed) if rate == best else None
        if same:
            return {**same, "contestant": name, "same_as": "single"}
    elif name == "similarity":
        rate = started.recommended()
    elif name in GRIDS_OF_SETTINGS:
        setting, _ = GRIDS_OF_SETTINGS[name]
        chosen = max((row for row in log.rows if row["contestant"] == name), key=_validation)
        rate, settings = chosen["rate"], {setting: chosen[setting]}
    elif name in rates_ideas.IDEAS:
        before = rates_ideas.FOLLOWS.get(name)
        row = log.get(before, seed) if before else None
        return rates_ideas.contest(name, started, DEFAULT[config.optimizer], row)
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
        choice = dict(started.program.method.find(begun, search).settings)
        rate, settings = choice["learning_rate"], {"head_learning_rate": 10 * DEFAULT[config.optimizer]}
    elif name == "fast_head":
        rate = DEFAULT[config.optimizer]
        settings = {"head_learning_rate": 10 * rate}
    elif name in OF_OPTIMIZER:
        rate = 1.0
    elif name == "probe":
        return started.probe()
    elif name == "head_first":
        return {**started.train_head_first(started.rates(best)), "rate": best}
    elif name in TUNED:
        method, settings_of = TUNED[name]
        return {**started.train_tuned(method, learning_rate=best, **settings_of), "rate": best}
    elif name in AUTOLR_AT_BEST:
        at_best = {"learning_rate": best, "head_learning_rate": best}
        scores = started.train_tuned("autolr", **at_best, **AUTOLR_AT_BEST[name])
        return {**scores, "rate": best, "trials": started.trials}
    elif name in AUTOLR:
        of_paper = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
        return {**started.train_tuned("autolr", **of_paper, **AUTOLR[name]), "trials": started.trials}
    return {**started.train(started.rates(rate, **settings)), "rate": rate, **settings}


class Late(Exception):
    """There is no time for another run."""


class NoGrid(ValueError):
    """A cell whose best rate nobody has looked for."""


def run_cell(
    cell: Callable[[Mapping[str, Any]], Cell],
    log: Log,
    contestants: list[str],
    seeds: tuple[int, ...],
    until: float = math.inf,
    recorded: Mapping[float, float] | None = None,
) -> None:
    """Train what has no line yet; ``cell`` is built of the settings in which a contestant's program differs.

    Where there is no grid among the lines and the contestants, ``recorded`` is it, ``{rate: validation score}``.

    Raises:
        Late: the clock has passed ``until``, a time of ``time.monotonic``.
        NoGrid: there is no grid at all.
    """
    made: dict[str, Cell] = {}

    def started(contestant: str, seed: int) -> Started:
        settings = OF_PROGRAM.get(contestant, {})
        key = json.dumps(settings)
        if key not in made:
            made[key] = cell(settings)
        return made[key].of_seed(seed)

    def timed(contestant: str, seed: int, train: Callable[[Started], dict[str, Any]]) -> Mapping[str, Any]:
        if time.monotonic() > until:
            raise Late
        began, of_seed = time.monotonic(), started(contestant, seed)
        row = train(of_seed)
        cost = {
            "trained": of_seed.whole.cost.images_trained + of_seed.rehearsals.cost.images_trained,
            "judged": of_seed.rehearsals.cost.images_judged,
            "seconds": round(time.monotonic() - began, 1),
        }
        return log.add({"contestant": contestant, "seed": seed, **cost, **row})

    def validation(rate: float) -> float:
        row = log.get("grid", CHOOSING, rate) or timed(
            "grid", CHOOSING, lambda of: {**of.train(of.rates(rate)), "rate": rate}
        )
        return _validation(row)

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
    trained = {row["rate"]: _validation(row) for row in log.rows if row["contestant"] == "grid"}
    of_grid = trained or dict(recorded or {})
    if not of_grid:
        raise NoGrid("no grid is recorded for this cell: ask for the contestant grid too")
    best, grid = max(of_grid, key=of_grid.__getitem__), sorted(of_grid)
    for name in contestants:
        for settings in _grid_of_setting(name, best, grid):
            chosen_before = [row for row in log.rows if row["contestant"] == name and row["seed"] == CHOOSING]
            if not any(settings.items() <= row.items() for row in chosen_before):
                timed(name, CHOOSING, functools.partial(_at, settings=settings))
        for seed in seeds if name != "grid" else ():
            if log.get(name, seed) is None:
                timed(name, seed, functools.partial(contest, name, best=best, log=log, seed=seed))


def _validation(row: Mapping[str, Any]) -> float:
    score = row["validation"]
    return -1.0 if score is None or math.isnan(score) else float(score)


def _grid_of_setting(name: str, best: float, grid: list[float]) -> list[dict[str, float]]:
    if name not in GRIDS_OF_SETTINGS:
        return []
    setting, values = GRIDS_OF_SETTINGS[name]
    next_higher = min((rate for rate in grid if rate > best), default=float(f"{3 * best:.1g}"))
    return [{"rate": rate, setting: value} for value in values for rate in (best, next_higher)]


def _at(started: Started, settings: Mapping[str, float]) -> dict[str, Any]:
    """A run with a rate and another setting."""
    others = {name: value for name, value in settings.items() if name != "rate"}
    return {**started.train(started.rates(settings["rate"], **others)), **settings}


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
    parser.add_argument(
        "--table",
        action="store_true",
        help="record the lines there are, print all tables, draw costs.svg, regrets.svg",
    )
    parser.add_argument("--series", default="", help="name of the runs in the workdir, such as a commit")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--cells", default="", help="those that --table shows; all where none is named")
    parser.add_argument("settings", nargs="*", help="FinetuneConfig fields, NAME=VALUE")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    recorded = rates_record.read(arguments.record)
    if arguments.table:
        files = sorted(arguments.workdir.glob("*.jsonl"))
        if files and not arguments.series:
            parser.error("--table needs a name for the runs in the workdir: --series=COMMIT")
        for file in files:
            grid = rates_record.grid_of(recorded, file.stem)
            try:
                newer = rates_record.of_rows(file.stem, Log(file).rows, arguments.series, grid)
            except ValueError as error:
                parser.error(str(error))
            recorded = rates_record.merged(recorded, newer)
        if files:
            rates_record.write(arguments.record, recorded)
        shown = arguments.cells.split(",") if arguments.cells else [entry.cell for entry in recorded]
        recorded = [entry for entry in recorded if entry.cell in shown]
        print(summary(recorded), table(recorded), sep="\n\n")
        (arguments.workdir / "costs.svg").write_bytes(figure(recorded))
        (arguments.workdir / "regrets.svg").write_bytes(figure_in_short(recorded))
        return 0
    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    known = declared(FinetuneConfig)
    pairs = dict(pair.split("=", 1) for pair in arguments.settings)
    settings = {name: type(known[name].default)(value) for name, value in pairs.items()}
    (arguments.workdir / f"{arguments.cell}.json").write_text(json.dumps(settings) + "\n")
    seeds = tuple(map(int, arguments.seeds.split(",")))
    log = Log(arguments.workdir / f"{arguments.cell}.jsonl")

    def cell(changes: Mapping[str, Any]) -> Cell:
        return Cell({**settings, **({"method": "standard"} if changes else {}), **changes})

    try:
        grid = rates_record.grid_of(recorded, arguments.cell)
        run_cell(cell, log, arguments.contestants.split(","), seeds, until, grid)
    except Late:
        return 3
    except NoGrid as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
