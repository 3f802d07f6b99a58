"""``python -m experiments.prune --flags…``, the command of ``finetune_jax/commands/prune.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("prune")
