"""The images of a run."""

from finetune_jax.config.settings import FinetuneConfig


def _augmentation(config: FinetuneConfig) -> str:
    if config.augmentation != "auto":
        return config.augmentation
    return "none" if config.dataset == "digits" else "flip"
