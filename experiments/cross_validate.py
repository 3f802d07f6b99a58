"""``python -m experiments.cross_validate --flags…``, the command of ``finetune_jax/commands/cross_validate.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("cross_validate")
