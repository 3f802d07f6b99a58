"""The settings of a run: one frozen dataclass per kind of run, checked in one place.

Binaries make their flags from these fields, so a setting is declared, typed, explained and given its default
exactly once. No JAX here: ``--help`` must not wait for it.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_jax.errors import UserError

METHODS = (
    "standard",
    "feature_extractor",
    "last_k",
    "stochastic",
    "l2_sp",
    "progressive",
    "scratch",
    "autolr",
    "spottune",
    "spottune_tuned",
    "spottune_global",
    "random_policy",
)
WITH_POLICY = ("spottune", "spottune_tuned", "spottune_global")
"""Methods that train a policy network."""
ROUTED = (*WITH_POLICY, "random_policy")
"""Methods with two copies of each block."""
_TUNES_EVERYTHING = ("standard", "l2_sp", "scratch", "autolr")
PROTOCOLS = ("classification", "retrieval")
IN_PROPORTION = ("random_crop", "random_resized_crop")
"""Augmentations that are defined on images in their own proportions."""
CROPPING = ("crop", *IN_PROPORTION)
"""Augmentations that cut --image_size pixels out of larger stored images."""
AUGMENTATIONS = ("auto", "none", "flip", "pad_crop", "pad_crop_flip", *CROPPING)
RESIZE_MODES = ("auto", "stretch", "shorter_side")
NORMALIZATIONS = ("pretrained", "dataset")
SCHEDULES = ("constant", "step", "cosine", "cyclic", "sgdr")
OPTIMIZERS = ("sgd", "adamw")
LOSSES = ("cross_entropy", "proxy_anchor")
RETRIEVAL_SCORES = ("recall_at_1", "map_at_r")
SELECTION = ("validation", "test", "last")
AUTO = "auto"
"""The learning rate that the similarity of source and target recommends."""
BY_RULE = "rule"
"""The batch-norm momentum ``max(1 − 10 / s, 0.9)``, ``s`` steps per epoch."""
ALTERNATIVES = (
    ("learning_rate", "effective_learning_rate"),
    ("weight_decay", "effective_weight_decay"),
)
"""Two settings for the same thing; the second, unless it is None, takes the place of the first."""


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


RUNTIME_SETTINGS = (
    "learning_rate",
    "effective_learning_rate",
    "head_learning_rate",
    "proxy_learning_rate",
    "policy_learning_rate",
    "momentum",
    "policy_momentum",
    "weight_decay",
    "effective_weight_decay",
    "policy_weight_decay",
    "layer_decay",
    "discriminative_ratio",
    "rate_factors",
    "schedule",
    "drop_epochs",
    "drop_factor",
    "cycles",
    "lowest_factor",
    "alpha",
    "beta",
    "threshold",
    "threshold_decay",
    "threshold_floor",
    "max_trials",
)
"""Settings that no compiled program knows: runs that differ in nothing else can be trained together."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "autolr": {
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-2,
        "batch_size": 40,
        "epochs": 50,
        "schedule": "step",
        "drop_factor": 0.2,
    },
    # The penalty takes the place of weight decay; the paper fine-tunes three blocks.
    "l2_sp": {"weight_decay": 0.0},
    "spottune_global": {"k": 3},
}
"""Defaults of a method's paper, where they differ from those of everything else."""


def recipe(method: str) -> FinetuneConfig:
    """The config of a method before the user has changed anything."""
    return FinetuneConfig(method=method, **RECIPES.get(method, {}))


def changed(config: FinetuneConfig, **settings: Any) -> FinetuneConfig:
    """The config with other settings; of two :data:`ALTERNATIVES` the one that is set takes the other's place."""
    for plain, effective in ALTERNATIVES:
        if plain in settings:
            settings.setdefault(effective, None)
        elif settings.get(effective) is not None:
            settings[plain] = _DEFAULTS[plain]
    return dataclasses.replace(config, **settings)


def without_idle_settings(config: FinetuneConfig) -> FinetuneConfig:
    """The config with its defaults where a setting has no effect, for one of several methods with shared flags."""
    values = dataclasses.asdict(config)
    for names, switch, needed in _EFFECTS:
        if values[switch] not in needed:
            values |= {name: _DEFAULTS[name] for name in names}
    if config.method in _TUNES_EVERYTHING or (config.frozen_norm == "learn" and config.method not in ROUTED):
        values["frozen_norm"] = _DEFAULTS["frozen_norm"]
    return FinetuneConfig(**values)


def validate(config: Any) -> None:
    """Check the values of a config and how they go together.

    Raises:
        UserError: names the flag, or the flags that contradict each other.
    """
    values = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        choices, words = field.metadata["choices"], field.metadata["words"]
        value = values[field.name]
        if choices and value not in choices:
            raise UserError(f"--{field.name}={value} is not known; choose {', '.join(choices)}")
        if words and isinstance(value, str) and value not in words:
            raise UserError(f"--{field.name}={value} is no number; give one, or {' or '.join(words)}")
    for names, accepted, wanted in _RANGES:
        for name in names:
            value = values.get(name)
            is_number = value is not None and not (isinstance(value, str) and _WORDS[name])
            if is_number and not accepted(value):
                raise UserError(f"--{name}={value} is out of range; give {wanted}")
    for check in _CONTRADICTIONS:
        check(values)


_RANGES = (
    (("test_fraction",), lambda v: 0 < v < 1, "a share between 0 and 1"),
    (("validation_fraction",), lambda v: 0 <= v < 1, "a share from 0 to below 1"),
    (
        ("epochs", "batch_size", "k", "cycles", "max_trials"),
        lambda v: v >= 1,
        "a whole number of at least 1",
    ),
    (("ks",), lambda v: len(v) > 0 and min(v) >= 1, "whole numbers of at least 1"),
    (
        (
            "image_size",
            "test_resize",
            "stored_size",
            "train_resize",
            "decode_workers",
            "early_stopping",
            "checkpoint_steps",
            "steps_per_dispatch",
            "device_data_gb",
            "weight_decay",
            "effective_weight_decay",
            "head_learning_rate",
            "proxy_learning_rate",
            "prune_depth",
            "seed",
            "split_seed",
            "frozen_first",
            "policy_weight_decay",
            "eval_samples",
            "budget_weight",
            "entropy_weight",
            "lambda_shared",
            "lambda_novel",
        ),
        lambda v: 0 <= v < math.inf,
        "0 or more",
    ),
    (
        (
            "learning_rate",
            "effective_learning_rate",
            "drop_factor",
            "alpha",
            "beta",
            "temperature",
            "policy_learning_rate",
        ),
        lambda v: 0 < v < math.inf,
        "a number above 0",
    ),
    (("layer_decay", "lowest_factor", "threshold_decay"), lambda v: 0 < v <= 1, "a factor in (0, 1]"),
    (("discriminative_ratio",), lambda v: 1 <= v < math.inf, "a number of at least 1"),
    (("threshold", "threshold_floor"), lambda v: 0 <= v <= 1, "a sorting quality in [0, 1]"),
    (
        ("momentum", "policy_momentum", "norm_momentum", "label_smoothing"),
        lambda v: 0 <= v < 1,
        "a number in [0, 1)",
    ),
    (("color_jitter",), lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    (("hue_jitter",), lambda v: 0 <= v <= 0.5, "a number from 0 to 0.5"),
    (("width",), lambda v: 0 < v <= 8, "a factor in (0, 8]"),
    (("drop_epochs",), lambda v: list(v) == sorted(set(v)) and all(e > 0 for e in v), "rising epochs"),
)


def _scratch_has_no_pretrained(values: Mapping[str, Any]) -> None:
    method = values.get("method", "scratch")
    if values.get("pretrained") == "none" and method not in ("standard", "scratch", "autolr"):
        raise UserError(f"--method={method} needs weights; give --pretrained something but none")


def _drops_are_of_the_step_schedule(values: Mapping[str, Any]) -> None:
    if values.get("schedule", "step") != "step" and values["drop_epochs"]:
        raise UserError(f"--drop_epochs contradicts --schedule={values['schedule']}; use --schedule=step")


def _one_balance(values: Mapping[str, Any]) -> None:
    if values.get("balanced_sampling") and values["class_weights"] == "balanced":
        raise UserError("--balanced_sampling and --class_weights=balanced correct the same thing twice")


def _fractions_leave_training_images(values: Mapping[str, Any]) -> None:
    if values.get("validation_fraction", 0) + values.get("test_fraction", 0) >= 1:
        raise UserError("--validation_fraction and --test_fraction together leave no training images")


def _one_rule_of_rates(values: Mapping[str, Any]) -> None:
    rules = {name: values.get(name, 1.0) != 1.0 for name in ("layer_decay", "discriminative_ratio")}
    if all(rules.values()):
        raise UserError("--layer_decay and --discriminative_ratio are two rules for the same rates; give one")
    rules["rate_factors"] = bool(values.get("rate_factors"))
    if values.get("method") == "autolr":
        for name, used in rules.items():
            if used:
                raise UserError(f"--{name} contradicts --method=autolr, which finds the rates of the blocks")


def _one_of_alternatives(values: Mapping[str, Any]) -> None:
    for plain, effective in ALTERNATIVES:
        if values.get(effective) is not None and values[plain] != _DEFAULTS[plain]:
            raise UserError(both_given(plain, effective))
    if values.get("effective_weight_decay") is not None and values.get("method") == "autolr":
        raise UserError(
            "--effective_weight_decay contradicts --method=autolr, which changes the learning rates that it is "
            "relative to; give --weight_decay"
        )


def _where_similarity_says_nothing(values: Mapping[str, Any]) -> None:
    if values.get("learning_rate") != AUTO:
        return
    why = ""
    if values["optimizer"] != "sgd":
        why = f"--optimizer={values['optimizer']}: it recommends an effective learning rate of SGD"
    elif values["method"] == "autolr":
        why = "--method=autolr, which finds the rates of the blocks itself"
    elif values["method"] in ("scratch", "feature_extractor") or values["pretrained"] == "none":
        method = "--pretrained=none" if values["pretrained"] == "none" else f"--method={values['method']}"
        why = f"{method}: it says how far pretrained weights should move"
    if why:
        raise UserError(f"--learning_rate=auto has no meaning with {why}; give a number")


def both_given(plain: str, effective: str) -> str:
    """What to say of two :data:`ALTERNATIVES`."""
    return f"--{plain} and --{effective} say the same in two units; give one of them"


def _score_is_measured(values: Mapping[str, Any]) -> None:
    if values.get("retrieval_score") == "recall_at_1" and 1 not in values["ks"]:
        raise UserError(
            f"--retrieval_score=recall_at_1 needs 1 among --ks={','.join(map(str, values['ks']))}"
        )


def _stretched_images_have_no_shorter_side(values: Mapping[str, Any]) -> None:
    mode = values.get("resize_mode")
    stretched = mode == "stretch" or (mode == "auto" and values["augmentation"] not in IN_PROPORTION)
    if stretched and values["train_resize"]:
        raise UserError(
            f"--train_resize={values['train_resize']} is a shorter side, and images are stretched; give "
            "--resize_mode=shorter_side, or --stored_size instead"
        )


def _losses_of_protocols(values: Mapping[str, Any]) -> None:
    if values.get("loss", "cross_entropy") == "cross_entropy":
        return
    if values["protocol"] != "retrieval":
        raise UserError("--loss=proxy_anchor learns embeddings and no classifier; use --protocol=retrieval")
    for name, neutral in (("label_smoothing", 0.0), ("class_weights", "none")):
        if values[name] != neutral:
            raise UserError(f"--{name}={values[name]} has no meaning with --loss=proxy_anchor")


_EFFECTS = (
    (
        ("alpha", "beta", "threshold", "threshold_decay", "threshold_floor", "max_trials", "keep_trials"),
        "method",
        ("autolr",),
    ),
    (("stored_size",), "augmentation", CROPPING),
    (("train_resize",), "augmentation", ("crop", "random_crop")),
    (("color_jitter", "hue_jitter"), "augmentation", ("random_resized_crop",)),
    (("proxy_learning_rate",), "loss", ("proxy_anchor",)),
    (("cycles", "lowest_factor"), "schedule", ("cyclic", "sgdr")),
    (("momentum", "nesterov", "effective_learning_rate", "effective_weight_decay"), "optimizer", ("sgd",)),
    (("ks", "retrieval_score"), "protocol", ("retrieval",)),
    (("predict_unlabelled",), "protocol", ("classification",)),
    (("source", "reference"), "learning_rate", (AUTO,)),
    (("k",), "method", ("last_k", "spottune_global")),
    (("frozen_first",), "method", ROUTED),
    (
        ("policy_network", "policy_learning_rate", "policy_momentum", "policy_weight_decay", "temperature"),
        "method",
        WITH_POLICY,
    ),
    (("eval_samples",), "method", ("spottune", "random_policy")),
    (("budget_weight", "entropy_weight"), "method", ("spottune_global",)),
    (("lambda_shared", "lambda_novel"), "method", ("l2_sp",)),
)
"""Settings, and the setting and its values that give them an effect."""


def _no_setting_without_effect(values: Mapping[str, Any]) -> None:
    for names, switch, needed in _EFFECTS:
        for name in names:
            changed = switch in values and name in values and values[name] != _DEFAULTS[name]
            if changed and values[switch] not in needed:
                raise UserError(
                    f"--{name}={values[name]} is for --{switch}={' or '.join(needed)} and has no meaning "
                    f"with --{switch}={values[switch]}"
                )
    method = values.get("method")
    if values.get("frozen_norm", "eval") != "eval" and method in _TUNES_EVERYTHING:
        raise UserError(
            f"--frozen_norm={values['frozen_norm']} has no meaning with --method={method}, which freezes nothing"
        )
    if values.get("frozen_norm") == "learn" and method is not None and method not in ROUTED:
        raise UserError(f"--frozen_norm=learn is for --method={' or '.join(ROUTED)}, not {method}")
    if values.get("early_stopping") and values["select_on"] == "last":
        raise UserError("--early_stopping needs a score; it contradicts --select_on=last")


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FinetuneConfig)}
_WORDS = {field.name: field.metadata["words"] for field in dataclasses.fields(FinetuneConfig)}

_CONTRADICTIONS = (
    _no_setting_without_effect,
    _scratch_has_no_pretrained,
    _drops_are_of_the_step_schedule,
    _one_rule_of_rates,
    _stretched_images_have_no_shorter_side,
    _one_of_alternatives,
    _where_similarity_says_nothing,
    _losses_of_protocols,
    _score_is_measured,
    _one_balance,
    _fractions_leave_training_images,
)
