"""What the settings, the checks and the help need to know of each method, without JAX.

How a method trains is the business of ``finetune_jax.training.methods``; here is which of the settings have an
effect with it, and what its paper takes for defaults. A method is one entry of :data:`BY_NAME`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """Facts of a method.

    Attributes:
        text: what it trains, for people; a clause without a full stop.
        freezes: whether a pretrained part stays as it is, so that ``--frozen_norm`` has an effect.
        routed: whether each block exists twice, frozen and fine-tuned.
        has_policy: whether a policy network is trained with it.
        samples_decisions: whether a trained network can be tested with decisions that are drawn at random.
        counts_blocks: whether ``--k`` says how many blocks are fine-tuned.
        needs_weights: whether it has no meaning with ``--pretrained=none``.
        takes_adapters: whether ``--adapters`` may stand in the place of whole blocks.
        moves_weights: whether pretrained weights are moved, which is what ``--learning_rate=auto`` is about.
        sets_blocks: whether it sets the rates of the blocks itself, from epoch to epoch.
        finds_rates: whether it finds the rates of all parts itself, before training.
        in_shares: whether it trains the parts of a network as they are, so that ``--shard_parameters`` may cut them.
        recipe: defaults of its paper where they differ from those of everything else, ``{setting: value}``.
        start: what takes the place of the paper's optimiser and rates where none is typed, because it was better in our
            own comparison (docs/results.md).
    """

    text: str
    freezes: bool = True
    routed: bool = False
    has_policy: bool = False
    samples_decisions: bool = False
    counts_blocks: bool = False
    needs_weights: bool = True
    moves_weights: bool = True
    sets_blocks: bool = False
    finds_rates: bool = False
    takes_adapters: bool = False
    in_shares: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)


PLAIN_START: Mapping[str, Any] = {"optimizer": "adamw", "learning_rate": 1e-3}
"""Optimiser and rate of the plain command."""


BY_NAME: Mapping[str, Method] = {
    "standard": Method(
        "all parts are fine-tuned", freezes=False, needs_weights=False, in_shares=True, start=PLAIN_START
    ),
    "feature_extractor": Method(
        "only the head is trained",
        moves_weights=False,
        in_shares=True,
        # SGD at 0.1 was as good on labels; AdamW's steps do not grow with the features and the targets.
        start={"optimizer": "adamw", "learning_rate": 1e-2},
    ),
    "last_k": Method(
        "the head and the top k blocks are fine-tuned", counts_blocks=True, in_shares=True, start=PLAIN_START
    ),
    "stochastic": Method(
        "the head and a random half of the blocks are fine-tuned", in_shares=True, start=PLAIN_START
    ),
    "l2_sp": Method(
        "all parts are fine-tuned, and pulled towards the pretrained weights",
        freezes=False,
        in_shares=True,
        # The penalty takes the place of weight decay.
        recipe={"weight_decay": 0.0},
        start=PLAIN_START,
    ),
    "ftp": Method(
        "all parts are fine-tuned, within learned distances of the pretrained weights (Fast Trainable Projection)",
        freezes=False,
        start=PLAIN_START,
    ),
    "tpgm": Method(
        "all parts are fine-tuned, within distances of the pretrained weights that validation images teach (TPGM)",
        freezes=False,
        start=PLAIN_START,
    ),
    "progressive": Method("a new column is trained beside the frozen pretrained network"),
    "lora": Method(
        "low-rank adapters beside the kernels of the blocks are trained, and the head",
        takes_adapters=True,
        # Its paper and the libraries train with AdamW. The steps of SGD grow with the square of alpha / rank, and 0.01
        # was too much for DINOv2 at rank 4.
        recipe={"optimizer": "adamw", "learning_rate": 1e-3},
    ),
    "norms": Method("the parameters of norms are trained, and the head", freezes=False),
    "biases": Method("the biases are trained, and the head (BitFit)"),
    "scratch": Method(
        "all parts are trained from random weights",
        freezes=False,
        needs_weights=False,
        moves_weights=False,
        in_shares=True,
    ),
    "autolr": Method(
        "all parts are fine-tuned, with learning rates of the blocks that AutoLR finds in trials",
        freezes=False,
        sets_blocks=True,
        takes_adapters=True,
        in_shares=True,
        needs_weights=False,
        recipe={
            "learning_rate": 1e-3,
            "head_learning_rate": 1e-2,
            "batch_size": 40,
            "epochs": 50,
            "schedule": "step",
            "drop_factor": 0.2,
        },
        start=PLAIN_START,
    ),
    "auto": Method(
        "all parts are fine-tuned, with learning rates that short trials before training find",
        freezes=False,
        needs_weights=False,
        finds_rates=True,
    ),
    "auto_rgn": Method(
        "all parts are fine-tuned, blocks at rates in proportion to their gradients relative to their weights",
        freezes=False,
        needs_weights=False,
        sets_blocks=True,
    ),
    "auto_snr": Method(
        "all parts are fine-tuned, blocks whose gradients are mostly noise held still for an epoch",
        freezes=False,
        needs_weights=False,
        sets_blocks=True,
    ),
    "spottune": Method(
        "SpotTune: a policy network decides per image which blocks are fine-tuned",
        routed=True,
        has_policy=True,
        samples_decisions=True,
        start=PLAIN_START,
    ),
    "spottune_tuned": Method(
        "SpotTune in which all images take the fine-tuned blocks",
        routed=True,
        has_policy=True,
        start=PLAIN_START,
    ),
    "spottune_global": Method(
        "SpotTune's policy chooses k blocks that are fine-tuned for all images",
        routed=True,
        has_policy=True,
        counts_blocks=True,
        # The paper fine-tunes three blocks.
        recipe={"k": 3},
        start=PLAIN_START,
    ),
    "random_policy": Method(
        "each image takes random blocks fine-tuned, and always the last three",
        routed=True,
        samples_decisions=True,
        start=PLAIN_START,
    ),
}
"""``{name: facts}``, in the order in which they are listed for people."""


def start_of(name: str) -> Mapping[str, Any]:
    """What takes the place of the paper's optimiser and rates, ``{}`` for a method that is not listed here."""
    return BY_NAME[name].start if name in BY_NAME else {}


def with_fact(fact: str, value: bool = True) -> tuple[str, ...]:
    """Names of the methods of which a fact (a field of :class:`Method`) has a value, in their order.

    >>> with_fact("counts_blocks")
    ('last_k', 'spottune_global')
    """
    return tuple(name for name, method in BY_NAME.items() if getattr(method, fact) == value)
