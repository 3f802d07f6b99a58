"""``python -m experiments.similarity --flags…``, the command of ``finetune_jax/commands/similarity.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("similarity")
