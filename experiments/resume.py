"""``python -m experiments.resume --flags…``, the command of ``finetune_jax/commands/resume.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("resume")
