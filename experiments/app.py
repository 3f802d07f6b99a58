"""``python -m experiments.app --flags…``, the command of ``finetune_jax/commands/app.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("app")
