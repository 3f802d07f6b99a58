"""The rates of a run as numbers: given in another unit, by similarity, by a range test, or found by the method."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_jax.config import resolution
from finetune_jax.config.choices import AUTO, FINDS_RATES, RANGE_TESTS
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models.weights.pretrained import Pretrained
from finetune_jax.runs import domains, references
from finetune_jax.runs.images import Images


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run, as its flags give them and as it uses them.

    Attributes:
        flags: as the user wrote them, for ``flags.json`` and the report.
        config: with a number for each rate, for everything else.
        reason: why the rates are what they are; empty where the flags give them.
        search: what rehearsals came to, JSON; empty where there were none.
        announced: whether the first lines of the run have been printed, before a search.
    """

    flags: FinetuneConfig
    config: FinetuneConfig
    reason: str = ""
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    announced: bool = False

    @property
    def chosen_by(self) -> str:
        """The flag that left the choice of the rates to the program."""
        if self.flags.method in FINDS_RATES:
            return f"--method={self.flags.method}"
        return f"--learning_rate={self.flags.learning_rate}"

    @property
    def rates(self) -> dict[str, Any]:
        """The rates in both units, and the reason, for ``flags.json``."""
        reason = {"reason": self.reason} if self.reason else {}
        return (
            resolution.values(self.config) | reason | ({"search": dict(self.search)} if self.search else {})
        )


def settings_of(flags: FinetuneConfig, images: Images) -> Settings:
    """The settings of a run whose flags give a rate."""
    return Settings(flags, resolution.resolve(flags, steps_per_epoch=images.steps_per_epoch))


def refuse_a_guess(
    flags: FinetuneConfig, origin: Pretrained, chosen_before: Mapping[str, Any] | None
) -> None:
    """Refuse ``--learning_rate=auto`` where nothing is known that the network's features could be compared with.

    A run that began before goes on with the rate that it has; a column of Table 4 that is named is taken.

    Raises:
        UserError: says why, and what to give instead.
    """
    if flags.learning_rate != AUTO or flags.reference != "auto" or chosen_before is not None:
        return
    known = references.load(flags.reference, origin.network.architecture)
    if known.remark:
        raise UserError(f"--learning_rate=auto: {known.remark}; leave it out for the usual rate")


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
    if flags.learning_rate in RANGE_TESTS:
        # Any number; the search comes when there is something to train.
        return Settings(flags, settings_of(changed(flags, learning_rate=1.0), images).config)
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
