"""``python -m experiments.recommend --flags…``, the command of ``finetune_jax/commands/recommend.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("recommend")
