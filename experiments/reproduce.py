"""``python -m experiments.reproduce --flags…``, the command of ``finetune_jax/commands/reproduce.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("reproduce")
