"""A config as the flags that give it."""

from typing import Any

from finetune_jax.config.declaration import declared, written


def as_flags(config: Any, base: Any) -> str:
    """A config as flags, one per line, for ``--flagfile``.

    Args:
        config: what the flags say.
        base: what the command takes flags from that are not given; they are left out.
    """
    lines = []
    for name in declared(type(config)):
        value = getattr(config, name)
        if value == getattr(base, name):
            continue
        if isinstance(value, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        else:
            lines.append(f"--{name}={written(value)}")
    return "".join(f"{line}\n" for line in lines)
