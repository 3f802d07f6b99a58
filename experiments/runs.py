"""``python -m experiments.runs --flags…``, the command of ``finetune_jax/commands/runs.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("runs")
