"""``python -m experiments.autolr --flags…``, the command of ``finetune_jax/commands/autolr.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("autolr")
