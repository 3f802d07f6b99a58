r"""Measure a run on a split of its own or of another data set.

    python -m experiments.evaluate --run=runs/photos
    python -m experiments.evaluate --run=runs/photos --dataset=folder:other --protocol=retrieval

Classification prints accuracy, balanced accuracy, recall per class and the confusion matrix; retrieval
prints Recall@K and MAP@R of the embeddings. Everything goes to EVALUATION.json in the run directory too.
"""

import json
import sys
from pathlib import Path

from absl import flags

from experiments import command_line
from finetune_jax.config import DataConfig
from finetune_jax.errors import UserError
from finetune_jax.run_directory import data_config_of

command_line.define_flags(DataConfig)
flags.DEFINE_string("run", None, "Run directory whose best checkpoint is measured.", required=True)
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Split to measure on.")
flags.DEFINE_enum("protocol", "classification", ["classification", "retrieval"], "What is measured.")
flags.DEFINE_list("ks", ["1", "2", "4", "8"], "K of Recall@K.")


def main() -> int:
    """Measure, print, save."""
    values = flags.FLAGS
    run = Path(values.run).expanduser()
    # The data of the run itself, unless flags say otherwise.
    config = command_line.read_flags(DataConfig, base=data_config_of(run))
    replicas = command_line.start_jax()
    from finetune_jax import measuring, report

    if values.protocol == "classification" and values["ks"].present:
        raise UserError("--ks is for --protocol=retrieval and has no meaning with classification")
    try:
        ks = tuple(int(k) for k in values.ks)
    except ValueError:
        raise UserError(f"--ks={','.join(values.ks)}: give whole numbers") from None
    result = measuring.measure(run, config, replicas, split=values.split, protocol=values.protocol, ks=ks)
    print(report.measurement_table(result))
    file = run / f"evaluation-{values.protocol}-{values.split}.json"
    try:
        file.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {file}", file=sys.stderr)
    except OSError as error:
        print(f"not written to {file}: {error.strerror}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    command_line.run(main)
