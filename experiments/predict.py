"""``python -m experiments.predict --flags…``, the command of ``finetune_jax/commands/predict.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("predict")
