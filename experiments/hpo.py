"""``python -m experiments.hpo --flags…``, the command of ``finetune_jax/commands/hpo.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("hpo")
