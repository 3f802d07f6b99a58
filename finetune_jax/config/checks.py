"""Checks of a config: its values, settings without effect, and settings that contradict each other."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from finetune_jax.config import methods
from finetune_jax.config.choices import ALTERNATIVES, AUTO, IN_PROPORTION
from finetune_jax.config.declaration import declared, written
from finetune_jax.config.settings import DEFAULTS
from finetune_jax.errors import UserError

Config = TypeVar("Config")


def without_idle_settings(config: Config) -> Config:
    """The config with its defaults where a setting has no effect, for one of several methods with shared flags."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    idle = {
        name: setting.default
        for name, setting in declared(type(config)).items()
        if setting.unmet(values) is not None
    }
    return type(config)(**{**values, **idle})


def validate(config: Any) -> None:
    """Check the values of a config and how they go together.

    Raises:
        UserError: names the flag, or the flags that contradict each other.
    """
    values = dataclasses.asdict(config)
    settings = declared(type(config))
    for name, setting in settings.items():
        value = values[name]
        if setting.choices and value not in setting.choices:
            raise UserError(f"--{name}={written(value)} is not known; choose {', '.join(setting.choices)}")
        if setting.words and isinstance(value, str) and value not in setting.words:
            raise UserError(f"--{name}={value} is no number; give one, or {' or '.join(setting.words)}")
    for name, setting in settings.items():
        value = values[name]
        is_number = value is not None and not (isinstance(value, str) and setting.words)
        if setting.range and is_number and not setting.range.accepts(value):
            raise UserError(f"--{name}={written(value)} is out of range; give {setting.range.words}")
    for setting in settings.values():
        if refusal := setting.refusal(values):
            raise UserError(refusal)
    for check in _CONTRADICTIONS:
        check(values)


def _weights_of_the_method(values: Mapping[str, Any]) -> None:
    method = values.get("method")
    if values.get("pretrained") == "none" and method is not None and methods.BY_NAME[method].needs_weights:
        raise UserError(f"--method={method} needs weights; give --pretrained something but none")


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
    elif not methods.BY_NAME[values["method"]].moves_weights or values["pretrained"] == "none":
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


_CONTRADICTIONS = (
    _weights_of_the_method,
    _one_rule_of_rates,
    _stretched_images_have_no_shorter_side,
    _one_of_alternatives,
    _where_similarity_says_nothing,
    _score_is_measured,
    _one_balance,
    _fractions_leave_training_images,
)
