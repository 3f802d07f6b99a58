"""``python -m experiments.export --flags…``, the command of ``finetune_jax/commands/export.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("export")
