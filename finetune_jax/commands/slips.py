"""Flags that are not there: what was probably meant, in one sentence."""

import difflib
from collections.abc import Collection, Mapping

_OTHERWISE = {
    "freeze": "--method=feature_extractor trains the head only, --method=last_k --k=N the top N blocks with it",
    "resume": "the same command with the same --workdir goes on where the run stopped",
    "num_classes": "classes are counted from the data set",
    "device": "JAX takes all devices that it finds; JAX_PLATFORMS=cpu in front of the command chooses the CPU",
    "verbose": "progress is shown as it is; 2>FILE keeps it",
}
"""What takes the place of flags of other tools that have no counterpart."""
_SAME = {
    "freeze_backbone": "freeze",
    "frozen": "freeze",
    "freeze_layers": "freeze",
    "resume_from_checkpoint": "resume",
    "continue": "resume",
    "nc": "num_classes",
    "classes": "num_classes",
    "gpu": "device",
    "gpus": "device",
    "cuda": "device",
    "cpu": "device",
    "v": "verbose",
}
_RUN = (
    "checkpoint",
    "ckpt",
    "weights",
    "model",
    "pretrained",
    "workdir",
    "run_dir",
    "runs",
    "model_path",
    "path",
)
_CLOSEST = 3


def unknown_flag(name: str, flags: Collection[str], aliases: Mapping[str, Collection[str]]) -> str:
    """What to say of a flag that the command does not have.

    Args:
        name: without the dashes in front.
        flags: names of those that it has.
        aliases: ``{flag: names that other tools have for it}``.
    """
    plain = name.replace("-", "_").lower()
    if plain in flags:
        return f"--{name} is spelled --{plain}"
    meant = [flag for flag, others in aliases.items() if plain in others and flag in flags]
    if "run" in flags and plain in _RUN:
        meant = ["run"]
    if meant:
        return f"--{name} is called {' or '.join(f'--{flag}' for flag in meant)} here"
    if instead := _OTHERWISE.get(_SAME.get(plain, plain)):
        return f"there is no --{name}: {instead}"
    close = difflib.get_close_matches(plain, sorted(flags), _CLOSEST)
    if close:
        return f"there is no --{name}; did you mean {' or '.join(f'--{flag}' for flag in close)}?"
    return f"there is no --{name}"


def unknown_command(name: str, names: Collection[str]) -> str:
    """What to say of a command that is not there."""
    plain = {
        "train": "finetune",
        "fit": "finetune",
        "check": "check_data",
        "eval": "evaluate",
        "sweep": "hpo",
    }
    meant = (
        [plain[name]] if name in plain else difflib.get_close_matches(name.replace("-", "_"), names, _CLOSEST)
    )
    meant = [command for command in meant if command in names]
    if meant:
        return f"there is no command {name}; did you mean {' or '.join(meant)}?"
    return f"there is no command {name}; choose {', '.join(names)}"
