r"""Train a network from scratch, and export its weights for others to start from.

    finetune-jax pretrain --dataset=folder:cifar10 --image_size=32 --test_resize=32 --width=0.375 \
        --workdir=runs/cifar10 --export=resnet26_cifar10

This is ``finetune-jax finetune --method=scratch`` with defaults that suit it; every flag of it works here.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.config.settings import FinetuneConfig

command_line.define_flags(
    FinetuneConfig,
    method="scratch",
    pretrained="none",
    augmentation="pad_crop_flip",
    learning_rate=0.2,
    batch_size=256,
    epochs=150,
)
flags.DEFINE_string("export", "", "Also write PATH.npz (float16 weights) and PATH.json (what they need).")


def main() -> int:
    """Run, export, print the result, return the exit status."""
    config = command_line.read_flags(FinetuneConfig)
    if not config.workdir:
        config = dataclasses.replace(config, workdir=command_line.new_workdir(config.dataset, config.method))
    replicas = command_line.start_jax()
    from pathlib import Path

    from finetune_jax.models.weights import pretrained
    from finetune_jax.runs import finetune

    summary = finetune.run(config, replicas)
    if replicas.is_primary:
        if flags.FLAGS.export:
            origin = pretrained.from_run(Path(config.workdir))
            pretrained.export(origin, Path(flags.FLAGS.export), test_accuracy=summary["test_accuracy"])
        print(f"test accuracy {summary['test_accuracy']:.4f}\nrun directory: {config.workdir}")
    return 0
