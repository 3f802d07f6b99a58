"""``python -m experiments.check_data --flags…``, the command of ``finetune_jax/commands/check_data.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("check_data")
