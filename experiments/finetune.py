"""``python -m experiments.finetune --flags…``, the command of ``finetune_jax/commands/finetune.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("finetune")
