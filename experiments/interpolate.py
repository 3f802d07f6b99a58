"""``python -m experiments.interpolate --flags…``, the command of ``finetune_jax/commands/interpolate.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("interpolate")
