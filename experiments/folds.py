"""``python -m experiments.folds --flags…``, the command of ``finetune_jax/commands/folds.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("folds")
