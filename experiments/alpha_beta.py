"""``python -m experiments.alpha_beta --flags…``, the command of ``finetune_jax/commands/alpha_beta.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("alpha_beta")
