r"""Fine-tune a pretrained network.

    python -m experiments.finetune --dataset=folder:photos --workdir=runs/photos

Started again with the same flags it goes on where it stopped.
"""

from experiments import command_line
from finetune_jax.config import FinetuneConfig

command_line.define_flags(FinetuneConfig)


def main() -> int:
    """Run, print the result, return the exit status."""
    config = command_line.read_flags(FinetuneConfig)
    replicas = command_line.start_jax()
    from finetune_jax import finetuning

    summary = finetuning.run(config, replicas)
    if replicas.is_primary:
        print(
            f"test accuracy {summary['test_accuracy']:.4f} "
            f"(epoch {summary['best_epoch']} of {summary['epochs_trained']}, chosen on {summary['selected_on']}; "
            f"{summary['seconds']:.0f} s)\nrun directory: {config.workdir}"
        )
    return 0


if __name__ == "__main__":
    command_line.run(main)
