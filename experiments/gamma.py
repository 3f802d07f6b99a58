"""``python -m experiments.gamma --flags…``, the command of ``finetune_jax/commands/gamma.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("gamma")
