"""``python -m experiments.spottune --flags…``, the command of ``finetune_jax/commands/spottune.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("spottune")
