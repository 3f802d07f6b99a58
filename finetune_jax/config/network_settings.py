"""Settings of the network: its architecture, its weights, and how it computes."""

from dataclasses import dataclass

from finetune_jax.config import ranges
from finetune_jax.config.choices import BY_RULE, FROZEN_NORMS, NORMALIZATIONS, ROUTED
from finetune_jax.config.declaration import setting
from finetune_jax.config.groups import METHOD, NETWORK
from finetune_jax.config.methods import BY_NAME, with_fact


@dataclass(frozen=True)
class NetworkConfig:
    """Which network, and where its weights come from."""

    network: str = setting(
        "",
        "Architecture of the network; empty follows the pretrained weights (resnet26 with --pretrained=none).",
        group=NETWORK,
        aliases=("arch", "architecture", "backbone", "model"),
    )
    width: float = setting(
        1.0,
        "Factor on all channel numbers of a network without bundled weights.",
        group=NETWORK,
        range=ranges.WIDTH,
    )
    pretrained: str = setting(
        "resnet26_cifar10",
        "Pretrained weights: a weight file, a run directory, a bundled or installed name, timm:TAG, hf:REPO, or none.",
        group=NETWORK,
        important=3,
        aliases=(
            "weights",
            "weight_file",
            "checkpoint",
            "ckpt",
            "initial_checkpoint",
            "model_name",
            "model_name_or_path",
            "model",
        ),
    )
    pool: str = setting(
        "",
        "How the tokens of a transformer become an embedding: the class token (token), the mean of the patches (mean), "
        "one behind the other (both), or attention (map); empty is what the weights were trained with.",
        group=NETWORK,
        aliases=("gp", "global_pool"),
    )
    drop_path: float = setting(
        0.0,
        "Share of the images whose last block is skipped in training, rising linearly from 0 in the first (stochastic "
        "depth of transformers, ConvNeXt, ResNet-D, EfficientNet B, MobileNet-V3 and RegNetY).",
        group=NETWORK,
        range=ranges.BELOW_ONE,
        aliases=("drop_path_rate", "stochastic_depth"),
    )
    dropout: float = setting(
        0.0,
        "Share of the embedding that the classifier does without in training; for the networks of --drop_path.",
        group=NETWORK,
        range=ranges.BELOW_ONE,
        aliases=("drop", "drop_rate"),
    )
    weights_entry: str = setting(
        "",
        "Which weights to take from a file that holds several: a key such as state_dict_ema, or what the names begin "
        "with, such as encoder_q; empty takes the usual ones.",
        group=NETWORK,
    )
    add_adapter: str = setting(
        "",
        "Adapters of LoRA to add to --pretrained first, with the head that came with them: a folder with the files of "
        "peft, such as adapter/ of a run with --save_adapter.",
        group=NETWORK,
        only_with={"method": tuple(name for name in BY_NAME if name != "scratch")},
        why="which starts from random weights",
        aliases=("adapter", "adapter_path", "adapter_name_or_path", "peft_path"),
    )
    normalization: str = setting(
        "pretrained",
        "Mean and standard deviation that images are normalised with: those the weights were trained with, or "
        "those of the training images.",
        NORMALIZATIONS,
        group=NETWORK,
    )
    bfloat16: bool = setting(
        False,
        "Compute in bfloat16; parameters and norm statistics stay float32.",
        group=NETWORK,
        aliases=("amp", "bf16", "fp16", "half", "mixed_precision"),
    )
    norm_momentum: float | str = setting(
        0.9,
        "Share of the old running statistics that batch norm keeps per step, or rule: max(1 - 10/s, 0.9) with s "
        "steps per epoch.",
        group=NETWORK,
        words=(BY_RULE,),
        range=ranges.BELOW_ONE,
    )
    sync_batch_norm: bool = setting(
        False,
        "Average batch statistics over all devices.",
        group=NETWORK,
        aliases=("sync_bn",),
    )
    rematerialise: bool = setting(
        False,
        "Train with less memory: keep only the input of each block for the backward pass and compute the rest of it "
        "again there, for about a third more computation.",
        group=NETWORK,
        aliases=("remat", "grad_checkpointing", "gradient_checkpointing"),
    )
    from_probe: bool = setting(
        False,
        "Start from a linear probe: the head as logistic regression on the pretrained features, and batch norms that "
        "keep their pretrained statistics.",
        group=METHOD,
        only_with={"method": ("standard",)},
    )
    frozen_norm: str = setting(
        "eval",
        "Batch norm of frozen parts: running statistics, unchanged (eval), batch statistics (train), or batch "
        "statistics with trained scales and biases, as in the published code of SpotTune (learn).",
        FROZEN_NORMS,
        group=METHOD,
        only_with={"method": with_fact("freezes")},
        why="which freezes nothing",
        value_only_with={"learn": {"method": ROUTED}},
    )
