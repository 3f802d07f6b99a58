r"""From which optimiser and rate methods should start where none is typed: their papers', or the plain command's.

    python -m benchmarks.method_starts --workdir=runs/starts \
        --case="clothing-300 dataset=folder:clothing images_per_class=30 image_size=32"

Protocol, fixed before the first run. In every cell, a data set with a network, every method trains with the numbers of
its paper (``--recipe=paper``: SGD at 0.01 where the paper has none of its own) and with those of the plain command,
AdamW at 0.001 for all parts; AutoLR also with SGD whose blocks start at 0.003, 0.01 and 0.03. Epochs and batch size
are the same for all, everything else is the method's. The score is the validation accuracy of the best epoch; the
test is kept and chooses nothing.

Rule. A method starts as the plain command does, unless that is more than two points behind its paper's numbers in the
mean over the cells in which it was tried; then it starts as its paper does.

Methods that train the same parts go together, and one stands for them: last_k for stochastic, norms for biases,
spottune for spottune_tuned, spottune_global and random_policy.

Added when the first of its runs had shown that a head alone learns too slowly from either: feature_extractor with AdamW
at 0.003 and 0.01, and with SGD at 0.03 and 0.1. It starts from the best of them in the mean if that is more than two
points better than both.

Runs that are there already are not trained again, so it can be stopped and started.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import cases

METHODS = (
    "autolr",
    "feature_extractor",
    "last_k",
    "l2_sp",
    "ftp",
    "norms",
    "spottune",
    "progressive",
    "auto_rgn",
    "auto_snr",
)
PAPER, PLAIN = "its paper's", "AdamW, 0.001"
_OF_BLOCKS = (0.003, 0.01, 0.03)
STARTS: Mapping[str, Mapping[str, Any]] = {
    PAPER: {},
    PLAIN: {"optimizer": "adamw", "learning_rate": 1e-3, "head_learning_rate": 0.0},
    **{f"SGD, blocks {rate:g}": {"learning_rate": rate} for rate in _OF_BLOCKS},
    **{f"SGD, {rate:g}": {"learning_rate": rate} for rate in (0.03, 0.1)},
    **{f"AdamW, {rate:g}": {"optimizer": "adamw", "learning_rate": rate} for rate in (0.003, 0.01)},
}
"""What each start changes of the paper's numbers."""
_MORE = {
    "autolr": tuple(f"SGD, blocks {rate:g}" for rate in _OF_BLOCKS),
    "feature_extractor": ("SGD, 0.03", "SGD, 0.1", "AdamW, 0.003", "AdamW, 0.01"),
}


def starts_of(method: str) -> list[str]:
    """Names of the starts with which a method is tried.

    >>> starts_of("l2_sp")
    ["its paper's", 'AdamW, 0.001']
    """
    return [PAPER, PLAIN, *_MORE.get(method, ())]


def table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Validation accuracies in percent as a Markdown table.

    >>> print(table({"photos": {"l2_sp": {"its paper's": 0.5, "AdamW, 0.001": 0.625}}}))
    | method | start | photos |
    |---|---|---|
    | `l2_sp` | its paper's | 50.0 |
    | `l2_sp` | AdamW, 0.001 | 62.5 |

    Args:
        scores: ``{cell: {method: {start: accuracy}}}``.
    """
    lines = [f"| method | start | {' | '.join(scores)} |", "|---" * (len(scores) + 2) + "|"]
    for method in METHODS:
        for start in starts_of(method):
            of_cells = [cell.get(method, {}).get(start) for cell in scores.values()]
            if any(score is not None for score in of_cells):
                shown = " | ".join("" if score is None else f"{100 * score:.1f}" for score in of_cells)
                lines.append(f"| `{method}` | {start} | {shown} |")
    return "\n".join(lines)


def train(base: Any, runs: Any, methods: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
    """Train in one cell; a run that diverged scores 0.

    Args:
        base: the config of the cell.
        runs: trains, see ``studies.runs.Runs``; keeps ``scores.json``.
        methods: to train.
        seed: of all runs.

    Returns:
        ``{method: {start: validation accuracy}}``.
    """
    from finetune_jax.config.named_recipes import starting_config
    from finetune_jax.config.recipes import changed
    from finetune_jax.errors import Diverged

    scores: dict[str, dict[str, float]] = {}
    for method in methods:
        of_paper = starting_config(recipe="paper", method=method)
        for start in starts_of(method):
            config = changed(of_paper, **{**cases.changes_of(base), **STARTS[start], "seed": seed})
            name = f"{method}/{''.join(c if c.isalnum() or c == '.' else '_' for c in start)}"
            try:
                score = runs(config, name)["validation_accuracy"]
            except Diverged:
                score = 0.0
            scores.setdefault(method, {})[start] = score
            runs.write("scores.json", json.dumps(scores, indent=1))
            print(f"{method}, {start}: {score}", file=sys.stderr, flush=True)
    return scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the table."""
    parser = cases.parser(__doc__, seeds=[1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    flags = parser.parse_args(arguments)
    scores = {
        name: train(base, runs, flags.methods, flags.seeds[0])
        for name, base, runs in cases.cells(flags.case, flags.epochs, flags.workdir)
    }
    print(table(scores), flush=True)


if __name__ == "__main__":
    main()
