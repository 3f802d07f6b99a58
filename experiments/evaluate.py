"""``python -m experiments.evaluate --flags…``, the command of ``finetune_jax/commands/evaluate.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("evaluate")
