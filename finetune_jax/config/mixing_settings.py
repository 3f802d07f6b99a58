"""Settings of what is done to images and labels beside the augmentation, and of averages of the weights."""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import AVERAGE_STATISTICS, LABEL_LOSSES, VALUE_LOSSES
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import IMAGES, RUN

_SOFT_LABELS = {"loss": (*LABEL_LOSSES, *VALUE_LOSSES)}
_WHY = "which needs one class per image"


@dataclass(frozen=True)
class MixingConfig:
    """Mixup, CutMix, random erasing, and the eight views of an image without an upper side."""

    mixup: float = setting(
        0.0,
        "Mixup: images and labels of a batch are mixed in pairs, with shares from Beta(α, α) of this α; 0 is no mixup.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
        only_with=_SOFT_LABELS,
        why=_WHY,
        aliases=("mixup_alpha",),
    )
    cutmix: float = setting(
        0.0,
        "CutMix: a box of another image takes the place of pixels, its size from Beta(α, α) of this α; 0 is no CutMix. "
        "With --mixup too, every batch has one of the two.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
        only_with=_SOFT_LABELS,
        why=_WHY,
        aliases=("cutmix_alpha",),
    )
    mix_probability: float = setting(
        1.0,
        "Probability that a batch is mixed by --mixup or --cutmix.",
        group=IMAGES,
        range=ranges.UP_TO_ONE,
        aliases=("mixup_prob",),
    )
    cutmix_probability: float = setting(
        0.5,
        "Probability that a batch which is mixed has --cutmix where --mixup is given too.",
        group=IMAGES,
        range=ranges.UP_TO_ONE,
        aliases=("mixup_switch_prob", "switch_prob"),
    )
    mixup_off_epoch: int = setting(
        0,
        "Epoch from which on no batch is mixed any more, counted from 0; 0 mixes to the end.",
        group=IMAGES,
        range=ranges.NOT_NEGATIVE,
    )
    erasing: float = setting(
        0.0,
        "Probability that a box of a training image is replaced by noise (random erasing).",
        group=IMAGES,
        range=ranges.UP_TO_ONE,
        aliases=("reprob", "random_erasing"),
    )
    dihedral: bool = setting(
        False,
        "Turn training images by a random multiple of 90° and mirror them, for images without an upper side "
        "(from microscopes and from above).",
        group=IMAGES,
        aliases=("rot90", "vertical_flip", "flipud", "vflip"),
    )


@dataclass(frozen=True)
class AveragingConfig:
    """Averages of the weights, evaluated beside the weights themselves."""

    ema_decay: float | None = setting(
        None,
        "Keep an exponential moving average of the weights with this decay, e.g. 0.999, evaluate it beside the "
        "weights, and let the better of the two be the result.",
        group=RUN,
        range=ranges.DECAY,
        aliases=("model_ema_decay", "ema", "model_ema"),
    )
    swa_epochs: int = setting(
        0,
        "Average the weights after each of so many last epochs (stochastic weight averaging), evaluate the average "
        "beside the weights, and let the better of the two be the result.",
        group=RUN,
        range=ranges.NOT_NEGATIVE,
        aliases=("swa",),
    )
    average_statistics: str = setting(
        "estimated",
        "Statistics of norms of --swa_epochs and of --optimizer=schedule_free_adamw: estimated anew from training "
        "images after every epoch, or kept from training.",
        AVERAGE_STATISTICS,
        group=RUN,
        before="kept",
    )
