"""How well the head knows the images before the rates of everything else are compared: fresh, and from a linear probe.

    python -m benchmarks.rates_heads --workdir=runs/heads --cell=NAME dataset=folder:clothing images_per_class=40 \
        image_size=32 batch_size=16 epochs=5

One line of JSON per measurement, all losses on the training images that rehearsals leave out: of the head as it
starts; after it has learnt alone for the steps of ``--method=auto``, from ten times the default rate downwards half a
decade at a time; of logistic regression on the frozen features, each divided by its deviation (``each``) or all by one
number (``all``), as pretrained and (``used``) after the batch norms have seen so many batches; what remains of the
probe's head after rehearsals in which nothing but the running statistics moves; and after rehearsals at several rates,
the head at the rate of everything else, at ten times that, and standing still.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.rates import DEFAULT
from benchmarks.rates_start import Cell, Started

_SHARE_OF_HEAD, _SHARE = 0.16, 0.12  # of the run's steps, as of --method=auto
_FACTOR = 10**0.5
_HEADS, _RATES = 5, (0.0003, 0.001, 0.003, 0.01, 0.03)


def measure(started: Started, default: float, *, still_norms: bool) -> list[dict[str, Any]]:
    """The lines of a start.

    Args:
        started: of a seed.
        default: rate of the optimiser.
        still_norms: whether its batch norms keep their statistics; then probes are those of evaluation.
    """
    from benchmarks import rates_probe

    search = started.rehearsals
    steps_of_head = max(8, int(_SHARE_OF_HEAD * search.steps_of_run))
    steps = max(8, int(_SHARE * search.steps_of_run))
    still = dict.fromkeys(started.rates(default), 0.0)
    lines: list[dict[str, Any]] = [{"what": "untrained", "loss": search.judge()}]

    def add(what: str, loss: float, **more: Any) -> None:
        lines.append({"what": what, **more, "loss": round(loss, 4)})
        print(json.dumps(lines[-1]), flush=True)

    rate = 10 * default
    for _ in range(_HEADS):
        add(
            "head alone",
            search.after({**still, "head": rate}, steps_of_head).judge(),
            rate=float(f"{rate:.2g}"),
        )
        rate /= _FACTOR
    kinds: dict[str, Any] = {
        "of evaluation": lambda in_proportion: rates_probe.in_evaluation(
            started, search, in_proportion=in_proportion
        ),
        "of evaluation, used": lambda in_proportion: rates_probe.in_evaluation(
            started, rates_probe.used_to(started), in_proportion=in_proportion
        ),
        "of training": lambda in_proportion: rates_probe.in_training(started, in_proportion=in_proportion),
    }
    if still_norms:
        kinds = {"of evaluation": kinds["of evaluation"]}
    for name, probe_of in kinds.items():
        for scaled, in_proportion in (("each", False), ("all", True)):
            probe = probe_of(in_proportion)
            more = {"features": name, "scaled": scaled, "penalty": probe.penalty}
            add("probe", probe.loss, **more)
            add("probe, after standing still", probe.begun.run(still, steps).loss, **more)
            if not in_proportion or (name != "of training" and not still_norms):
                continue
            for rate in _RATES:
                for factor in (1, 10):
                    loss = probe.begun.run({**started.rates(rate), "head": factor * rate}, steps).loss
                    add("probe, after a rehearsal", loss, features=name, rate=rate, head_factor=factor)
    return lines


def main() -> int:
    """Measure a cell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--cell", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--still", action="store_true", help="batch norms keep their pretrained statistics")
    parser.add_argument("settings", nargs="*", help="FinetuneConfig fields, NAME=VALUE")
    arguments = parser.parse_args()
    from finetune_jax.config.declaration import declared
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend()
    known = declared(FinetuneConfig)
    pairs = dict(pair.split("=", 1) for pair in arguments.settings)
    settings = {name: type(known[name].default)(value) for name, value in pairs.items()}
    cell = Cell(settings, still=arguments.still)
    started = cell.of_seed(arguments.seed)
    lines = measure(started, DEFAULT[started.config.optimizer], still_norms=arguments.still)
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({"seed": arguments.seed, **line}) + "\n" for line in lines)
    (arguments.workdir / f"{arguments.cell}{'-still' * arguments.still}-{arguments.seed}.jsonl").write_text(
        text
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
