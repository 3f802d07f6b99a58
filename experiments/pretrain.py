"""``python -m experiments.pretrain --flags…``, the command of ``finetune_jax/commands/pretrain.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("pretrain")
