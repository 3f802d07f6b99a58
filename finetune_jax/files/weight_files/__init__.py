"""Weight files of every format, read as data: nothing in them is executed."""

from finetune_jax.files.weight_files.read_write import read, write

__all__ = ["read", "write"]
