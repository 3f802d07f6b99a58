r"""List run directories: score, method, network, data, age, size.

finetune-jax runs                           # those below runs/
finetune-jax runs runs/sweep --sort=score --filter=autolr
finetune-jax runs --csv > runs.csv
finetune-jax runs --free                    # finished runs give back what only training needs
"""

import sys
from pathlib import Path

from absl import flags

from finetune_jax.errors import UserError

flags.DEFINE_enum(
    "sort",
    "age",
    ["age", "score", "size", "name"],
    "Column that sorts the list: the newest, best or largest first.",
)
flags.DEFINE_string(
    "filter", "", "Show only runs with this text in their path, method, network, data or state."
)
flags.DEFINE_bool("csv", False, "Print CSV instead of a table.")
flags.DEFINE_bool(
    "free", False, "Delete the optimiser's state of finished runs, which nothing but training needs."
)


def main(arguments: list[str]) -> int:
    """Print the table, or free room."""
    from finetune_jax.reports import run_list
    from finetune_jax.runs import listing

    if len(arguments) > 1:
        raise UserError(f"give one folder, not {len(arguments)}: {' '.join(arguments)}")
    values = flags.FLAGS
    folder = Path(arguments[0] if arguments else "runs").expanduser()
    rows = [listing.read(path) for path in listing.run_directories(folder)]
    if values.free:
        freed = sum(listing.free(row.path) for row in rows if row.finished and values.filter in str(row.path))
        print(f"{freed / 1e6:.1f} MB freed")
        return 0
    if not rows:
        raise UserError(f"there are no run directories below {folder.absolute()}")
    shown = run_list.selected(rows, folder, sort=values.sort, text=values.filter)
    print(run_list.csv(shown) if values.csv else run_list.table(shown), end="" if values.csv else "\n")
    hidden = len(rows) - len(shown)
    if hidden:
        print(f"{hidden} more do not match --filter={values.filter}", file=sys.stderr)
    return 0
