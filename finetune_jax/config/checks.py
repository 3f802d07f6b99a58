"""Checks of a config: its values, and settings that contradict each other."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from finetune_jax.config.choices import (
    ALTERNATIVES,
    AUTO,
    CROPPING,
    IN_PROPORTION,
    ROUTED,
    TUNES_EVERYTHING,
    WITH_POLICY,
)
from finetune_jax.config.settings import DEFAULTS, WORDS, FinetuneConfig
from finetune_jax.errors import UserError


def without_idle_settings(config: FinetuneConfig) -> FinetuneConfig:
    """The config with its defaults where a setting has no effect, for one of several methods with shared flags."""
    values = dataclasses.asdict(config)
    for names, switch, needed in _EFFECTS:
        if values[switch] not in needed:
            values |= {name: DEFAULTS[name] for name in names}
    if config.method in TUNES_EVERYTHING or (config.frozen_norm == "learn" and config.method not in ROUTED):
        values["frozen_norm"] = DEFAULTS["frozen_norm"]
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
            is_number = value is not None and not (isinstance(value, str) and WORDS[name])
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
        if values.get(effective) is not None and values[plain] != DEFAULTS[plain]:
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
            changed = switch in values and name in values and values[name] != DEFAULTS[name]
            if changed and values[switch] not in needed:
                raise UserError(
                    f"--{name}={values[name]} is for --{switch}={' or '.join(needed)} and has no meaning "
                    f"with --{switch}={values[switch]}"
                )
    method = values.get("method")
    if values.get("frozen_norm", "eval") != "eval" and method in TUNES_EVERYTHING:
        raise UserError(
            f"--frozen_norm={values['frozen_norm']} has no meaning with --method={method}, which freezes nothing"
        )
    if values.get("frozen_norm") == "learn" and method is not None and method not in ROUTED:
        raise UserError(f"--frozen_norm=learn is for --method={' or '.join(ROUTED)}, not {method}")
    if values.get("early_stopping") and values["select_on"] == "last":
        raise UserError("--early_stopping needs a score; it contradicts --select_on=last")


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
