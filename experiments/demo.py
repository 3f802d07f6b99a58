r"""The main job on embedded defaults: fine-tuning against its two extremes on handwritten digits.

    ./launch.sh demo

Fine-tunes the bundled network (pretrained on CIFAR-10), trains only its head, and trains it from scratch,
all with the same data, epochs and rates; ends with a table and the run directories.
"""

import dataclasses
import os
import sys
import time

from absl import flags

from experiments import command_line
from finetune_jax.config import FinetuneConfig
from finetune_jax.errors import UserError

command_line.define_flags(FinetuneConfig, epochs=6, learning_rate=0.02)
_METHODS = {
    "fine-tuned": "standard",
    "feature extractor": "feature_extractor",
    "from scratch": "scratch",
}


def main() -> int:
    """Run the three methods, print the table."""
    base = command_line.read_flags(FinetuneConfig)
    if flags.FLAGS["method"].present:
        raise UserError("--method has no meaning here: the demo runs three of them")
    workdir = base.workdir or os.path.join("runs", time.strftime("demo-%Y%m%d-%H%M%S"))
    replicas = command_line.start_jax()
    from finetune_jax import finetuning, report

    summaries = {}
    for name, method in _METHODS.items():
        print(f"{name}:", file=sys.stderr)
        own = dataclasses.replace(base, method=method, workdir=os.path.join(workdir, method))
        summaries[name] = finetuning.run(own, replicas)
    counts = ", ".join(f"{count} {split}" for split, count in summaries["fine-tuned"]["images"].items())
    print(f"\n{base.dataset}: {counts} images\n")
    print(report.comparison_table(summaries))
    print(f"\nrun directories: {workdir}/{{{','.join(_METHODS.values())}}}  (open report.html in each)")
    return 0


if __name__ == "__main__":
    command_line.run(main)
