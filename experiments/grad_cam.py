"""``python -m experiments.grad_cam --flags…``, the command of ``finetune_jax/commands/grad_cam.py``."""

from finetune_jax.commands import program

if __name__ == "__main__":
    program.run("grad_cam")
