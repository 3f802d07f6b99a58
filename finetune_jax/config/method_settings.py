"""Settings of single methods: AutoLR, SpotTune, L2-SP, and learning rates by similarity."""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import (
    AUTO,
    RADII,
    RGN_OVER,
    ROUTED,
    SPACINGS,
    TUNED_OVER,
    VARIATIONS,
    WITH_POLICY,
)
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import AUTOLR, L2_SP, LORA, METHOD, PROJECTION, SIMILARITY, SPOTTUNE
from finetune_jax.config.methods import with_fact
from finetune_jax.config.spelling import data_set

_AUTOLR = {"method": ("autolr",)}
_POLICY = {"method": WITH_POLICY}
_GLOBAL = {"method": ("spottune_global",)}
_L2_SP = {"method": ("l2_sp",)}
_LORA = {"method": with_fact("takes_adapters")}
_FTP = {"method": ("ftp",)}
_TPGM = {"method": ("tpgm",)}
_PROJECTION = {"method": ("ftp", "tpgm")}
_BY_SIMILARITY = {"learning_rate": (AUTO,)}


@dataclass(frozen=True)
class TuningConfig:
    """AutoLR: pruning of the top blocks, and learning rates per block that are tuned in trials."""

    prune_depth: int = setting(
        0,
        "Top blocks to leave out of the network.",
        group=AUTOLR,
        range=ranges.NOT_NEGATIVE,
        aliases=("depth", "prune"),
    )
    alpha: float = setting(
        2.0,
        "AutoLR's α: the target of the first block is α times the smallest weight variation.",
        group=AUTOLR,
        range=ranges.POSITIVE,
        only_with=_AUTOLR,
        runtime=True,
    )
    beta: float = setting(
        0.4,
        "AutoLR's β: the target of the last block is β times the largest weight variation.",
        group=AUTOLR,
        range=ranges.POSITIVE,
        only_with=_AUTOLR,
        runtime=True,
    )
    threshold: float = setting(
        0.94,
        "Sorting quality (1: every block moves further than those below it) from which on AutoLR accepts a trial.",
        group=AUTOLR,
        range=ranges.QUALITY,
        only_with=_AUTOLR,
        runtime=True,
    )
    threshold_decay: float = setting(
        0.99,
        "Factor of --threshold at every later epoch.",
        group=AUTOLR,
        range=ranges.FACTOR,
        only_with=_AUTOLR,
        runtime=True,
    )
    threshold_floor: float = setting(
        0.8,
        "Sorting quality below which --threshold no longer decays.",
        group=AUTOLR,
        range=ranges.QUALITY,
        only_with=_AUTOLR,
        runtime=True,
    )
    max_trials: int = setting(
        5,
        "At most this many trials per epoch; the last one is accepted whatever its quality.",
        group=AUTOLR,
        range=ranges.COUNT,
        only_with=_AUTOLR,
        runtime=True,
    )
    variation: str = setting(
        "mean",
        "How AutoLR measures the movement of a block: mean is ‖Δw‖/n of its Eq. 1, which makes large blocks look "
        "still; rms is ‖Δw‖/√n; relative is ‖Δw‖/‖w‖.",
        VARIATIONS,
        group=AUTOLR,
        only_with=_AUTOLR,
        runtime=True,
    )
    tuned_over: str = setting(
        "blocks",
        "What AutoLR orders and gives a rate: blocks, or stages, which are consecutive blocks with outputs of the same "
        "shape.",
        TUNED_OVER,
        group=AUTOLR,
        only_with=_AUTOLR,
        runtime=True,
    )
    target_spacing: str = setting(
        "linear",
        "How AutoLR spaces the targets of the first epoch between the first and the last block's.",
        SPACINGS,
        group=AUTOLR,
        only_with=_AUTOLR,
        runtime=True,
    )
    tuned_epochs: int = setting(
        0,
        "Epochs in which AutoLR tunes the rates; later ones keep them. 0 tunes in every epoch.",
        group=AUTOLR,
        range=ranges.NOT_NEGATIVE,
        only_with=_AUTOLR,
        runtime=True,
    )
    target_ratio: float = setting(
        0.0,
        "Ratio of the last block's target to the first one's in AutoLR's first epoch, around the geometric mean of the "
        "variations; 0 takes --alpha and --beta.",
        group=AUTOLR,
        range=ranges.RATIO,
        only_with=_AUTOLR,
        runtime=True,
    )
    rgn_over: str = setting(
        "blocks",
        "What Auto-RGN gives a rate of its own: blocks, or tensors, the kernels in them; norms and biases then have "
        "the largest rate of their block.",
        RGN_OVER,
        group=METHOD,
        only_with={"method": ("auto_rgn",)},
    )
    renew_optimizer: bool = setting(
        False,
        "Auto-RGN and Auto-SNR begin every epoch without momentum, as the rates of the blocks have changed.",
        group=METHOD,
        only_with={"method": ("auto_rgn", "auto_snr")},
    )
    keep_trials: bool = setting(
        False,
        "Also keep the weights of every trial of AutoLR, below trials/.",
        group=AUTOLR,
        only_with=_AUTOLR,
    )


@dataclass(frozen=True)
class RoutingConfig:
    """SpotTune: which copy of a block an image takes; and the penalty of L2-SP."""

    frozen_first: int = setting(
        0,
        "Lowest blocks that are frozen and not routed (Visual Decathlon: 4).",
        group=SPOTTUNE,
        range=ranges.NOT_NEGATIVE,
        only_with={"method": ROUTED},
    )
    policy_network: str = setting(
        "",
        "Architecture of the policy network; empty is resnet26_policy for resnet26, else resnet50_policy.",
        group=SPOTTUNE,
        only_with=_POLICY,
    )
    policy_learning_rate: float = setting(
        0.01,
        "Learning rate of the policy network; it follows the same --schedule.",
        group=SPOTTUNE,
        range=ranges.POSITIVE,
        only_with=_POLICY,
        runtime=True,
    )
    policy_momentum: float = setting(
        0.9,
        "Momentum of the policy network's SGD, without Nesterov's look ahead.",
        group=SPOTTUNE,
        range=ranges.BELOW_ONE,
        only_with=_POLICY,
        runtime=True,
    )
    policy_weight_decay: float = setting(
        1e-3,
        "Weight decay of the policy network's SGD.",
        group=SPOTTUNE,
        range=ranges.NOT_NEGATIVE,
        only_with=_POLICY,
        runtime=True,
    )
    temperature: float = setting(
        5.0,
        "Temperature of the policy's Gumbel-softmax.",
        group=SPOTTUNE,
        range=ranges.POSITIVE,
        only_with=_POLICY,
        aliases=("tau",),
    )
    eval_samples: int = setting(
        0,
        "Number of policies that are drawn at random from the policy network and tested as well, for the mean and "
        "spread of their scores.",
        group=SPOTTUNE,
        range=ranges.NOT_NEGATIVE,
        only_with={"method": with_fact("samples_decisions")},
    )
    budget_weight: float = setting(
        1.0,
        "Weight of the loss (tuned blocks - k)² of the global policy, SpotTune's Eq. 5.",
        group=SPOTTUNE,
        range=ranges.NOT_NEGATIVE,
        only_with=_GLOBAL,
    )
    entropy_weight: float = setting(
        1.0,
        "Weight of the entropy of the blocks' usage in the loss of the global policy, SpotTune's Eq. 6.",
        group=SPOTTUNE,
        range=ranges.NOT_NEGATIVE,
        only_with=_GLOBAL,
    )
    lambda_shared: float = setting(
        0.01,
        "L2-SP's weight of the penalty that pulls pretrained parameters towards their start values.",
        group=L2_SP,
        range=ranges.NOT_NEGATIVE,
        only_with=_L2_SP,
    )
    lambda_novel: float = setting(
        0.01,
        "L2-SP's weight of the penalty that pulls new parameters towards zero.",
        group=L2_SP,
        range=ranges.NOT_NEGATIVE,
        only_with=_L2_SP,
    )
    radii: str = setting(
        "layer",
        "What has a radius of its own in Fast Trainable Projection: every array of weights, as in its paper, or every "
        "block.",
        RADII,
        group=PROJECTION,
        only_with=_FTP,
    )
    radius_rate: float = setting(
        0.01,
        "Rate at which Fast Trainable Projection learns its radii (μ of its paper), and of TPGM's, there as a share of "
        "the longest movement of an array.",
        group=PROJECTION,
        range=ranges.POSITIVE,
        only_with=_PROJECTION,
        runtime=True,
    )
    radius_shrinking: float = setting(
        1.0,
        "Factor of gradients that make a radius of Fast Trainable Projection smaller (κ of its paper); with 0 radii "
        "only grow.",
        group=PROJECTION,
        range=ranges.UP_TO_ONE,
        only_with=_FTP,
        runtime=True,
    )
    radii_every: int = setting(
        1,
        "Steps after which TPGM learns its radii and projects; 0 does so at the end of every epoch.",
        group=PROJECTION,
        range=ranges.NOT_NEGATIVE,
        only_with=_TPGM,
    )
    radii_steps: int = setting(
        1,
        "Batches of validation images from which TPGM's radii learn each time.",
        group=PROJECTION,
        range=ranges.COUNT,
        only_with=_TPGM,
    )
    adapters: str = setting(
        "none",
        "What --method=autolr trains of the blocks: all of them (none), or low-rank adapters beside their kernels.",
        ("none", "lora"),
        group=LORA,
        value_only_with={"lora": {"method": with_fact("takes_adapters")}},
    )
    lora_rank: int = setting(
        8,
        "Rank of LoRA's adapters.",
        group=LORA,
        range=ranges.COUNT,
        only_with=_LORA,
        aliases=("lora_r", "rank"),
    )
    save_adapter: bool = setting(
        False,
        "Also write the adapters and the head alone, in the files of peft, below adapter/.",
        group=LORA,
        only_with=_LORA,
    )
    lora_alpha: float = setting(
        16.0,
        "LoRA's scale: the product of an adapter counts alpha divided by the rank.",
        group=LORA,
        range=ranges.POSITIVE,
        only_with=_LORA,
    )
    lora_targets: tuple[str, ...] = setting(
        (),
        "Words of which a kernel's path must hold one to get an adapter, e.g. qkv,proj; empty adapts all kernels of "
        "the blocks.",
        group=LORA,
        only_with=_LORA,
        aliases=("target_modules",),
    )


@dataclass(frozen=True)
class SourceConfig:
    """What the weights were trained on, and data sets whose best rates are known."""

    source: str = setting(
        "",
        "Data set that the weights were trained on, as in --dataset, or FILE.npz of its class means; empty is what "
        "comes with bundled weights.",
        group=SIMILARITY,
        only_with=_BY_SIMILARITY,
        spelling=data_set,
    )
    reference: str = setting(
        "auto",
        "Data sets with known best learning rates: a column of Table 4 of Li et al. as SOURCE/NETWORK, or FILE.json "
        "of your measurements; auto takes the column of the network, or imagenet/resnet101.",
        group=SIMILARITY,
        only_with=_BY_SIMILARITY,
    )
