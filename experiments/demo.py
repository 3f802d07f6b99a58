"""``python -m experiments.demo --flags…``, the command of ``finetune_jax/commands/demo.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("demo")
