"""``python -m experiments.decathlon --flags…``, the command of ``finetune_jax/commands/decathlon.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("decathlon")
