"""The settings of a run: one frozen dataclass per kind of run, checked in one place.

Binaries make their flags from these fields, so a setting is declared, typed, explained and given its default
exactly once. No JAX here: ``--help`` must not wait for it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from finetune_jax.config.choices import (
    AUGMENTATIONS,
    AUTO,
    BY_RULE,
    LOSSES,
    METHODS,
    NORMALIZATIONS,
    OPTIMIZERS,
    PROTOCOLS,
    RESIZE_MODES,
    RETRIEVAL_SCORES,
    SCHEDULES,
    SELECTION,
)


def setting(
    default: Any, help: str, choices: tuple[str, ...] | None = None, *, words: tuple[str, ...] = ()
) -> Any:
    """A dataclass field with the text and the choices of its flag.

    A tuple is a list of whole numbers where its annotation says so, else of words. None is a number that is not
    given. ``words`` may stand in the place of a number.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "words": words})


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they reach the device."""

    dataset: str = setting("digits", "digits, folder:PATH, or tfds:NAME[:CONFIG].")
    protocol: str = setting(
        "classification",
        "Label images (classification), or find those of the same class among others (retrieval), where "
        "without given class splits the first half of the classes trains and the rest tests.",
        PROTOCOLS,
    )
    ks: tuple[int, ...] = setting((1, 2, 4, 8), "K of the Recall@K that --protocol=retrieval reports.")
    data_dir: str = setting("", "Where prepared TFDS data lies; empty is TFDS's default.")
    validation_fraction: float = setting(
        0.1, "Share of the training images held out where the source has no validation split."
    )
    test_fraction: float = setting(
        0.2, "Share of the training images held out where the source has no test split."
    )
    train_on_validation: bool = setting(
        False, "Train on the validation images that the data set brings as well, as some papers do."
    )
    split_seed: int = setting(0, "Seed of the splits that are made up.")
    image_size: int = setting(
        0, "Height and width the network sees; 0 is 32 for digits and 224 for everything else."
    )
    test_resize: int = setting(
        0,
        "Validation and test images are resized to this side, then their centre is cropped to --image_size; "
        "0 is 8/7 of it (256 for 224), and no crop for digits; with --augmentation=crop it is --stored_size.",
    )
    augmentation: str = setting(
        "auto",
        "Applied on the device in every training step; auto is flip, and none for digits. crop takes "
        "--image_size pixels at a random place, random_crop also flips, random_resized_crop takes 8 to 100 % "
        "of the area with 3/4 to 4/3 as wide as high, flips, and changes colours.",
        AUGMENTATIONS,
    )
    resize_mode: str = setting(
        "auto",
        "How images become squares: stretched, or in their proportions by the shorter side, of which "
        "evaluation sees the centre; auto is shorter_side with --augmentation=random_crop or "
        "random_resized_crop, else stretch.",
        RESIZE_MODES,
    )
    stored_size: int = setting(
        0,
        "Side of the squares as which training images are kept for an augmentation that crops; 0 is 8/7 of "
        "--image_size, and 4/3 of that where crops are taken in the image's proportions.",
    )
    train_resize: int = setting(
        0,
        "Shorter side of the training images of which crops are taken in the image's proportions, and of the "
        "test images without --test_resize; 0 is 8/7 of --image_size.",
    )
    color_jitter: float = setting(
        0.4,
        "random_resized_crop multiplies brightness, contrast and saturation by 1 plus or minus up to this.",
    )
    hue_jitter: float = setting(
        0.0, "random_resized_crop moves the hue by up to this share of the colour circle."
    )
    skip_unreadable: bool = setting(False, "Leave out images that cannot be read, with a counted warning.")
    cache_dir: str = setting("", "Decoded images are kept here; empty is ~/.cache/finetune_jax.")
    device_data_gb: float = setting(
        2.0, "A data set up to this size lives on the device; a larger one is streamed."
    )
    decode_workers: int = setting(0, "Threads that decode images; 0 is one per core.")


@dataclass(frozen=True)
class NetworkConfig:
    """Which network, and where its weights come from."""

    network: str = setting(
        "", "Architecture; empty follows the pretrained weights (resnet26 with --pretrained=none)."
    )
    width: float = setting(1.0, "Factor on all channel numbers of a network without bundled weights.")
    pretrained: str = setting(
        "resnet26_cifar10", "Weight file, run directory, bundled name, hf:REPO, or none."
    )
    normalization: str = setting(
        "pretrained",
        "Mean and standard deviation that images are normalised with: those the weights were trained with, or "
        "those of the training images.",
        NORMALIZATIONS,
    )
    bfloat16: bool = setting(False, "Compute in bfloat16; parameters and norm statistics stay float32.")
    norm_momentum: float | str = setting(
        0.9,
        "Share of the old running statistics batch norm keeps per step, or rule: max(1 - 10/s, 0.9) with s steps "
        "per epoch.",
        words=(BY_RULE,),
    )
    sync_batch_norm: bool = setting(False, "Average batch statistics over all devices.")
    rematerialise: bool = setting(
        False,
        "Train with less memory: keep only the input of each block for the backward pass and compute the rest of it "
        "again there, for about a third more computation.",
    )
    frozen_norm: str = setting(
        "eval",
        "Batch norm of frozen parts: running statistics, unchanged (eval), batch statistics (train), or batch "
        "statistics with trained scales and biases, as in SpotTune's own code (learn).",
        ("eval", "train", "learn"),
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its rates."""

    optimizer: str = setting("sgd", "SGD with Nesterov momentum, or AdamW.", OPTIMIZERS)
    learning_rate: float | str = setting(
        0.01,
        "Learning rate of the pretrained parts; auto takes the one that the similarity of the data to --source "
        "recommends.",
        words=(AUTO,),
    )
    effective_learning_rate: float | None = setting(
        None, "In place of --learning_rate, which is then this times (1 - --momentum)."
    )
    head_learning_rate: float = setting(0.0, "Learning rate of the head; 0 takes --learning_rate.")
    layer_decay: float = setting(
        1.0, "Every part learns at this factor of the rate of the part above it (timm's --layer-decay)."
    )
    discriminative_ratio: float = setting(
        1.0,
        "Rates fall geometrically from --learning_rate in the head to 1/ratio of it in the stem (fastai's "
        "slice).",
    )
    rate_factors: tuple[str, ...] = setting(
        (), "Factors of the rates of single parts, e.g. block_01=0.1,head=10; 0 holds a part still."
    )
    momentum: float = setting(0.9, "Momentum of SGD.")
    nesterov: bool = setting(True, "Nesterov's look ahead in the momentum of SGD.")
    weight_decay: float = setting(
        5e-4, "SGD adds weight_decay · w to the gradient; AdamW shrinks w by learning_rate · weight_decay."
    )
    effective_weight_decay: float | None = setting(
        None, "In place of --weight_decay, which is then this times the learning rate."
    )
    batch_size: int = setting(32, "Images per step, over all devices.")
    schedule: str = setting("cosine", "How the learning rates fall.", SCHEDULES)
    drop_epochs: tuple[int, ...] = setting(
        (), "Epochs at which the step schedule multiplies the rates; empty is at 4/5 of --epochs."
    )
    drop_factor: float = setting(0.1, "Factor of the step schedule.")
    cycles: int = setting(
        1, "Triangles of the cyclic schedule; periods of the sgdr schedule (its warm restarts plus 1)."
    )
    lowest_factor: float = setting(
        0.1, "Share of the learning rates that the cyclic and sgdr schedules go down to."
    )
    loss: str = setting(
        "cross_entropy", "What is minimised; proxy_anchor is for --protocol=retrieval.", LOSSES
    )
    proxy_learning_rate: float = setting(
        0.0, "Learning rate of the proxies of --loss=proxy_anchor; 0 is 100 times --learning_rate."
    )
    label_smoothing: float = setting(0.0, "Share of the target spread evenly over all classes.")
    class_weights: str = setting(
        "none", "none, or balanced: loss weights inverse to the class frequencies.", ("none", "balanced")
    )
    balanced_sampling: bool = setting(False, "Draw every class equally often.")


@dataclass(frozen=True)
class TuningConfig:
    """AutoLR: pruning of the top blocks, and learning rates per block that are tuned in trials."""

    prune_depth: int = setting(0, "Top blocks to leave out of the network.")
    alpha: float = setting(2.0, "AutoLR aims at alpha times the smallest variation in the first block.")
    beta: float = setting(0.4, "AutoLR aims at beta times the largest variation in the last block.")
    threshold: float = setting(0.94, "Sorting quality from which on AutoLR accepts a trial.")
    threshold_decay: float = setting(0.99, "Factor of the threshold at every later epoch.")
    threshold_floor: float = setting(0.8, "The threshold decays only while it is above this.")
    max_trials: int = setting(5, "The last of so many trials of one epoch is taken as it is.")
    keep_trials: bool = setting(False, "Also keep the weights of every trial, below trials/.")


@dataclass(frozen=True)
class RoutingConfig:
    """SpotTune: which copy of a block an image takes; and the penalty of L2-SP."""

    frozen_first: int = setting(0, "Lowest blocks that are frozen and not routed (Visual Decathlon: 4).")
    policy_network: str = setting(
        "", "Architecture of the policy; empty is resnet26_policy for resnet26, else resnet50_policy."
    )
    policy_learning_rate: float = setting(0.01, "Learning rate of the policy; it falls with the others.")
    policy_momentum: float = setting(0.9, "Momentum of the policy's SGD, without Nesterov's look ahead.")
    policy_weight_decay: float = setting(1e-3, "Weight decay of the policy's SGD.")
    temperature: float = setting(5.0, "Of the Gumbel-softmax through which the policy learns.")
    eval_samples: int = setting(
        0, "Also test this many policies drawn from the policy network, and report mean and spread."
    )
    budget_weight: float = setting(1.0, "Weight of (tuned blocks - k)², SpotTune's Eq. 5.")
    entropy_weight: float = setting(1.0, "Weight of the entropy of the blocks' usage, SpotTune's Eq. 6.")
    lambda_shared: float = setting(0.01, "L2-SP: pull of pretrained parameters towards where they started.")
    lambda_novel: float = setting(0.01, "L2-SP: pull of new parameters towards zero.")


@dataclass(frozen=True)
class SourceConfig:
    """What the weights were trained on, and data sets whose best rates are known."""

    source: str = setting(
        "",
        "What the weights were trained on: a data set as in --dataset, or FILE.npz of its class means; empty is "
        "what comes with bundled weights.",
    )
    reference: str = setting(
        "auto",
        "Data sets with known best rates: a column of Table 4 as SOURCE/NETWORK, or FILE.json of your own; auto "
        "takes the column of the network, or imagenet/resnet101.",
    )


@dataclass(frozen=True)
class SimilarityConfig(SourceConfig, DataConfig, NetworkConfig):
    """``experiments.similarity``: how like its source several data sets are."""

    workdir: str = setting("", "Directory of the results; empty is a new one below runs/.")
    targets: tuple[str, ...] = setting((), "Data sets to fine-tune on, each as in --dataset.")
    save_source: str = setting("", "Also write FILE.npz, which later stands for the data set as --source.")


@dataclass(frozen=True)
class FinetuneConfig(SourceConfig, DataConfig, NetworkConfig, OptimizerConfig, TuningConfig, RoutingConfig):
    """``experiments.finetune``: one run, kept in one directory."""

    workdir: str = setting("", "Directory of the run; started again with the same flags it goes on there.")
    method: str = setting("standard", "What is trained.", METHODS)
    k: int = setting(
        1, "Blocks that are fine-tuned with the head: the top ones (last_k), any (spottune_global)."
    )
    epochs: int = setting(20, "Passes over the training images.")
    retrieval_score: str = setting(
        "recall_at_1", "Number by which --protocol=retrieval compares epochs and runs.", RETRIEVAL_SCORES
    )
    early_stopping: int = setting(0, "Stop after this many epochs without a better score; 0 never stops.")
    select_on: str = setting(
        "validation", "Split that chooses the best checkpoint; the papers use test.", SELECTION
    )
    predict_unlabelled: bool = setting(
        False, "Also label the images of splits that come without labels, in predictions-SPLIT.csv."
    )
    seed: int = setting(0, "Seed of everything random in the run.")
    checkpoint_steps: int = setting(0, "Also save every this many steps; 0 saves at the end of epochs only.")
    steps_per_dispatch: int = setting(
        0, "Steps the device runs per call; 0 is 1 on CPU and 64 on accelerators."
    )


DEFAULTS = {field.name: field.default for field in dataclasses.fields(FinetuneConfig)}
WORDS = {field.name: field.metadata["words"] for field in dataclasses.fields(FinetuneConfig)}
