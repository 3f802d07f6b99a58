"""The rates of a run as numbers: those that the flags give in another unit, and ``--learning_rate=auto``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_jax.config import resolution
from finetune_jax.config.choices import AUTO
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.weights.pretrained import Pretrained
from finetune_jax.runs import domains, references
from finetune_jax.runs.images import Images


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run, as its flags give them and as it uses them.

    Attributes:
        flags: as the user wrote them, for ``flags.json`` and the report.
        config: with a number for each rate, for everything else.
        reason: why ``--learning_rate=auto`` took its rate; empty where the flags give one.
    """

    flags: FinetuneConfig
    config: FinetuneConfig
    reason: str = ""

    @property
    def rates(self) -> dict[str, Any]:
        """The rates in both units, and the reason, for ``flags.json``."""
        return resolution.values(self.config) | ({"reason": self.reason} if self.reason else {})


def settings_of(flags: FinetuneConfig, images: Images) -> Settings:
    """The settings of a run whose flags give a rate."""
    return Settings(flags, resolution.resolve(flags, steps_per_epoch=images.steps_per_epoch))


def chosen_settings(
    flags: FinetuneConfig, images: Images, origin: Pretrained, chosen_before: Mapping[str, Any] | None
) -> Settings:
    """The settings of a run; ``--learning_rate=auto`` becomes the rate that similarity recommends.

    Nothing of the run depends on how the rate was chosen: the features are of the weights as they came, and no
    random number is drawn.

    Args:
        flags: of the run.
        images: of the run.
        origin: the network with its pretrained weights.
        chosen_before: ``rates`` of an earlier start of this run, whose choice stays; None at the first start.

    Raises:
        UserError: source and data cannot be compared.
    """
    if flags.learning_rate != AUTO:
        return settings_of(flags, images)
    if chosen_before is not None:
        rate = {"learning_rate": chosen_before["learning_rate"]}
        reason = chosen_before["reason"]
    else:
        known = references.load(flags.reference, origin.network.architecture)
        # Class means from a file or of bundled weights have an image size of their own.
        stored = not flags.source or flags.source.endswith(".npz")
        reading = dataclasses.replace(flags, image_size=0) if stored else flags
        prober = domains.Prober(reading, origin, images.replicas, pretrained=flags.pretrained)
        source = prober.source(flags.source)
        target = prober.opened(images.source, flag="dataset", image_size=source.image_size)
        recommended = references.judge(source, target, known)
        rate = {"effective_learning_rate": recommended["effective_learning_rate"]}
        reason = recommended["reason"] + (f" (note: {known.remark})" if known.remark else "")
    settings = settings_of(changed(flags, **rate), images)
    return Settings(flags, settings.config, reason)
