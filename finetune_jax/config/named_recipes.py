"""Complete sets of settings by name, ``--recipe=NAME``: what others fine-tune with, written as flags.

They set rates and regularisation, not the network, the data or the image size. Learning rates belong to the batch size
beside them. What cannot be said in our settings is said in the text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_jax.config.choices import FINDS_RATES, WITHOUT_RATE
from finetune_jax.config.methods import PLAIN_START, start_of
from finetune_jax.config.recipes import RECIPES, changed
from finetune_jax.config.settings import DEFAULTS, FinetuneConfig


@dataclass(frozen=True)
class NamedRecipe:
    """A set of settings.

    Attributes:
        text: where it comes from and what it is for; sentences.
        settings: ``{name: value}`` where they differ from the defaults.
    """

    text: str
    settings: Mapping[str, Any]


_LABELS_OF_TRANSFORMERS = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}

_DEIT3 = {
    "optimizer": "adamw",
    "learning_rate": 1e-5,
    "batch_size": 512,
    "weight_decay": 0.1,
    "decay_norms": False,
    "epochs": 20,
    "schedule_by": "step",
    "warmup_epochs": 5.0,
    "augmentation": "rand_augment",
    **_LABELS_OF_TRANSFORMERS,
}

NAMED_RECIPES: Mapping[str, NamedRecipe] = {
    "default": NamedRecipe(
        "AdamW at 0.001 (0.00003 for transformers that are named) for fine-tuning of pretrained weights, by the "
        "methods that were better with it in our own comparisons (docs/results.md); where a rate or a momentum is "
        "typed without --optimizer, and for all other methods, as paper.",
        {},
    ),
    "paper": NamedRecipe("The defaults of --method's paper; for --method=standard SGD at 0.01.", {}),
    "bundled": NamedRecipe(
        "The bundled network on some hundred to some thousand photographs: plain SGD at a rate that was better there "
        "than 0.01 in our own comparison, and is too high for ImageNet weights.",
        {"learning_rate": 0.03},
    ),
    "autogluon": NamedRecipe(
        "AutoGluon's defaults for images: AdamW with rates that fall by layers, warm-up over a tenth of the training, "
        "cosine by step, clipping, TrivialAugment. For ImageNet weights, some hundred to some thousand photographs and "
        "at least its 20 epochs.",
        {
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "layer_decay": 0.9,
            "weight_decay": 1e-3,
            "decay_norms": False,
            "batch_size": 128,
            "epochs": 20,
            "schedule_by": "step",
            "warmup_epochs": 2.0,
            "clip_norm": 1.0,
            "augmentation": "trivial_augment",
            "early_stopping": 10,
        },
    ),
    "mae": NamedRecipe(
        "Full fine-tuning of vision transformers as after MAE and BEiT pretraining (ViT-B; their rate is 5e-4 per 256 "
        "images). For thousands of images and long training; add --drop_path=0.1 where the network has it.",
        {
            "optimizer": "adamw",
            "learning_rate": 2.5e-4,
            "batch_size": 128,
            "layer_decay": 0.65,
            "weight_decay": 0.05,
            "decay_norms": False,
            "epochs": 100,
            "schedule_by": "step",
            "warmup_epochs": 5.0,
            "augmentation": "rand_augment",
            "erasing": 0.25,
            **_LABELS_OF_TRANSFORMERS,
        },
    ),
    "deit3": NamedRecipe(
        "Fine-tuning of DeiT III: small steps from weights that were trained with labels. Its rate is for batches of "
        "512.",
        _DEIT3,
    ),
    "timm": NamedRecipe(
        "timm's own fine-tuning of CLIP's vision transformers on iNaturalist: AdamW with rates that fall by layers, "
        "clipping, cosine by step, crops, no mixing. Its rate is for 1,536 images per step.",
        {
            "optimizer": "adamw",
            "learning_rate": 5e-5,
            "batch_size": 192,
            "accumulate_steps": 8,
            "layer_decay": 0.8,
            "weight_decay": 0.01,
            "decay_norms": False,
            "epochs": 50,
            "schedule_by": "step",
            "warmup_epochs": 5.0,
            "clip_norm": 1.0,
            "augmentation": "random_resized_crop",
            "label_smoothing": 0.1,
        },
    ),
    "convnext": NamedRecipe(
        "Fine-tuning of ConvNeXt on ImageNet-1K from ImageNet-22K weights: AdamW without mixing, nearly no decay, "
        "random erasing. Its rate is for batches of 512.",
        {
            "optimizer": "adamw",
            "learning_rate": 5e-5,
            "batch_size": 512,
            "layer_decay": 0.8,
            "weight_decay": 1e-8,
            "decay_norms": False,
            "epochs": 30,
            "schedule_by": "step",
            "augmentation": "rand_augment",
            "erasing": 0.25,
            "label_smoothing": 0.1,
        },
    ),
    "dinov2_linear": NamedRecipe(
        "Linear evaluation of DINOv2: the head alone, SGD without decay, crops and mirrors. Its rate is one of a grid "
        "of 13, from 5e-6 to 0.05 for batches of 128; try --learning_rate from 0.001 to 0.05.",
        {
            "method": "feature_extractor",
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 0.0,
            "batch_size": 128,
            "epochs": 10,
            "schedule_by": "step",
            "augmentation": "random_resized_crop",
            "color_jitter": 0.0,
        },
    ),
    "dinov2_full": NamedRecipe(
        "Full fine-tuning of DINOv2, for which its paper (section 7.1) takes the settings of DeiT III unchanged. Its "
        "rate is for batches of 512.",
        _DEIT3,
    ),
    "lightly": NamedRecipe(
        "lightly-train's defaults for classification: AdamW at 3e-4 for batches of 16 (it multiplies the rate by the "
        "root of batch_size / 16), cosine by step, clipping, crops and changes of colour. It warms up for 500 steps, "
        "of 100,000; ours are epochs.",
        {
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "batch_size": 16,
            "weight_decay": 1e-4,
            "decay_norms": False,
            "epochs": 20,
            "schedule_by": "step",
            "warmup_epochs": 2.0,
            "clip_norm": 3.0,
            "augmentation": "random_resized_crop",
            "hue_jitter": 0.05,
        },
    ),
    "autolr": NamedRecipe(
        "AutoLR, its paper's settings: batches of 40, 50 epochs, blocks from 0.001, head 0.01, all rates x 0.2 at 40.",
        {"method": "autolr"},
    ),
    "spottune": NamedRecipe(
        "SpotTune on the Visual Decathlon, its paper's settings: SGD 0.1, batches of 128, 110 epochs, four blocks "
        "frozen.",
        {
            "method": "spottune",
            "frozen_first": 4,
            "learning_rate": 0.1,
            "nesterov": False,
            "batch_size": 128,
            "epochs": 110,
            "schedule": "step",
            "drop_epochs": (40, 60, 80),
        },
    ),
    "rethinking": NamedRecipe(
        "Rethinking the Hyperparameters for Fine-tuning, the usual settings that it starts from: SGD 0.01, batches of "
        "256, 300 epochs, random resized crops.",
        {
            "learning_rate": 0.01,
            "weight_decay": 1e-4,
            "batch_size": 256,
            "epochs": 300,
            "schedule": "step",
            "drop_epochs": (150, 250),
            "augmentation": "random_resized_crop",
        },
    ),
}
"""``{name: recipe}``, in the order in which they are listed for people."""

OF_OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"learning_rate": 1e-3} for name in ("adamw", "adam", "lamb", "adafactor", "muon")},
    "lion": {"learning_rate": 1e-4},
    "schedule_free_adamw": {"learning_rate": 1e-3, "schedule": "constant"},
    **{name: {"learning_rate": 1.0} for name in WITHOUT_RATE},
}
"""Defaults of optimisers whose rates are no rates of SGD, ``{optimiser: {setting: value}}``."""


VERSION = 6
"""Version of :func:`starting_config`. A run that began with an earlier one goes on with that."""
_RECIPE_SINCE = {"lora": 3}
"""Versions from which on methods have a recipe, where that is not the first."""
_START_SINCE = {"standard": 4}
"""Versions from which on methods have a start of our own, where that is not the fifth."""

_RATES_OF_TRANSFORMERS = {6: 3e-5, 5: 1e-4}
"""Rates of AdamW for transformers, in the place of that of the plain command, by the version that brought them."""

DEFAULT = "default"
"""Name of the recipe of a command that names none."""

_TRANSFORMERS = ("vit", "deit", "dino", "siglip")
_OF_SGD = ("learning_rate", "momentum", "nesterov")
_RATES_OF_SGD = frozenset(
    (
        *_OF_SGD,
        "effective_learning_rate",
        "effective_weight_decay",
        "head_learning_rate",
        "proxy_learning_rate",
    )
)


def starting_config(
    *,
    recipe: str | None = None,
    method: str | None = None,
    optimizer: str | None = None,
    typed: Mapping[str, Any] | None = None,
    version: int = VERSION,
) -> FinetuneConfig:
    """The config before the user has changed anything but the three names.

    The method's paper comes first, then the optimiser's own rates, then the recipe.

    Args:
        recipe: of :data:`NAMED_RECIPES`; None is ``default``.
        method: None takes that of the recipe.
        optimizer: None takes that of the recipe, or of the method where the recipe sets neither it nor a rate.
        typed: what the user will change, as far as it tells which optimiser is meant: a rate without an optimiser is
            one of SGD.
        version: 5 stands for runs that began when transformers started at 0.0001, and with ``--method=auto`` like all
            other networks, 4 for those that began when all methods but the standard one started as in their papers, 3
            for those that began when SGD was the default of standard fine-tuning, 1 for those in which AdamW started
            at SGD's rate; before version 3, LoRA had the optimiser of everything else.
    """
    recipe = recipe or DEFAULT
    settings = dict(NAMED_RECIPES[recipe].settings)
    chosen = method or settings.get("method", "standard")
    if recipe == DEFAULT and version >= _START_SINCE.get(chosen, 5) and _is_measured(typed or {}, optimizer):
        start = _start(chosen, names_transformer(typed or {}), version)
        if optimizer in (None, start.get("optimizer")):
            settings |= start
    of_method = dict(RECIPES.get(chosen, {})) if version >= _RECIPE_SINCE.get(chosen, 1) else {}
    usual = "sgd" if "learning_rate" in settings else of_method.get("optimizer", "sgd")
    usual = settings.get("optimizer", usual)
    if optimizer not in (None, usual):
        # Its rates are of another optimiser.
        settings = _without_rates(settings)
    optimizer = optimizer or usual
    if of_method.get("optimizer", optimizer) != optimizer:
        of_method = _without_rates(of_method)
    if version > 4 and optimizer != "sgd":
        of_method.pop("head_learning_rate", None)  # one of SGD
    of_optimizer = {} if version == 1 and optimizer == "adamw" else OF_OPTIMIZERS.get(optimizer, {})
    values = {**of_method, **of_optimizer, **settings}
    return changed(FinetuneConfig(), **{**values, "method": chosen, "optimizer": optimizer})


def _start(method: str, transformer: bool, version: int) -> dict[str, Any]:
    """Our own optimiser and rate of a method, ``{}`` where there are none."""
    start = dict(start_of(method))
    rate = next((rate for since, rate in _RATES_OF_TRANSFORMERS.items() if version >= since), None)
    if not transformer or rate is None:
        return start
    if start == PLAIN_START or (version > 5 and method in FINDS_RATES):
        return {**PLAIN_START, "learning_rate": rate}
    return start


def _without_rates(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _OF_SGD}


def _is_measured(typed: Mapping[str, Any], optimizer: str | None) -> bool:
    """Whether our own start may take the place of the paper's: it was measured with pretrained weights, on labels."""
    names_a_rate_of_sgd = optimizer is None and bool(_RATES_OF_SGD & set(typed))
    return not (
        names_a_rate_of_sgd
        or typed.get("pretrained") == "none"
        or typed.get("protocol") == "retrieval"
        or typed.get("loss") == "proxy_anchor"
    )


def names_transformer(settings: Mapping[str, Any]) -> bool:
    """Whether the network or the weights have a name of a vision transformer; files do not say.

    >>> names_transformer({"pretrained": "dinov2_small_focus"}), names_transformer({"network": "vit_tiny_patch16_224"})
    (True, True)
    >>> names_transformer({"pretrained": "timm:convnext_atto.d2_in1k"}), names_transformer({"pretrained": "my/vit.npz"})
    (False, False)

    Args:
        settings: ``{name: value}``, ``network`` and ``pretrained`` among them or not.
    """
    network, pretrained = (str(settings.get(name) or "") for name in ("network", "pretrained"))
    is_published = pretrained.startswith(("timm:", "hf:"))
    name = pretrained.split(":", 1)[1].rsplit("/", 1)[-1] if is_published else ""
    return (
        network.startswith(_TRANSFORMERS)
        or pretrained == "dinov2_small_focus"
        or (name.startswith(_TRANSFORMERS) and "convnext" not in name)
    )


def unchanged(config: FinetuneConfig) -> FinetuneConfig:
    """What a command without a recipe takes its settings from where it names the method and optimiser of a config.

    Both are those of the defaults here: a command that has others must name them. Where a method has a start of our own
    the optimiser differs in any case, for it depends on what else is typed.
    """
    telling = ("network", "pretrained", "protocol", "loss")
    typed = {name: getattr(config, name) for name in telling if getattr(config, name) != DEFAULTS[name]}
    start = starting_config(method=config.method, optimizer=config.optimizer, typed=typed)
    optimizer = FinetuneConfig().optimizer
    if config.optimizer == optimizer:
        optimizer = start_of(config.method).get("optimizer", optimizer)
    return changed(start, method=FinetuneConfig().method, optimizer=optimizer)
