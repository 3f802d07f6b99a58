"""Checks of the settings of learning rates: what sets or finds them goes together."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.config.choices import FIND_BLOCKS, FINDS_RATES, RANGE_TESTS, SETS_BLOCKS, WITHOUT_RATE
from finetune_jax.config.settings import DEFAULTS
from finetune_jax.errors import UserError


def one_rule_of_rates(values: Mapping[str, Any]) -> None:
    """Refuse two rules for the rates of the same blocks.

    Raises:
        UserError: names both.
    """
    rules = {name: values.get(name, 1.0) != 1.0 for name in ("layer_decay", "discriminative_ratio")}
    if all(rules.values()):
        raise UserError("--layer_decay and --discriminative_ratio are two rules for the same rates; give one")
    rules["rate_factors"] = bool(values.get("rate_factors"))
    method = values.get("method")
    if values.get("tuned_over", "blocks") != "blocks" and values.get("adapters", "none") != "none":
        raise UserError(
            "--tuned_over=stages contradicts --adapters=lora, whose adapters AutoLR orders block by block"
        )
    if method in SETS_BLOCKS:
        for name, used in rules.items():
            if used:
                raise UserError(
                    f"--{name} contradicts --method={method}, which finds the rates of the blocks"
                )


def movements_are_gradients(values: Mapping[str, Any]) -> None:
    """Refuse an optimiser whose steps do not tell the gradients that a method reads from them.

    Raises:
        UserError: names optimiser and method.
    """
    if values.get("method") == "auto_rgn" and values["optimizer"] != "sgd":
        raise UserError(
            f"--optimizer={values['optimizer']} contradicts --method=auto_rgn, which takes the movements of SGD for "
            "its gradients"
        )


def what_is_searched(values: Mapping[str, Any]) -> None:
    """Refuse what a search of rates before training cannot go with.

    Raises:
        UserError: names it and what searches.
    """
    method, rate = values.get("method"), values.get("learning_rate")
    if rate not in RANGE_TESTS and method not in FINDS_RATES:
        return
    searching = f"--learning_rate={rate}" if rate in RANGE_TESTS else f"--method={method}"
    if rate == FIND_BLOCKS:
        _rates_of_parts_are_open(values)
    if method in FINDS_RATES:
        if isinstance(rate, str):
            raise UserError(
                f"--learning_rate={rate} contradicts --method={method}, which finds the rates itself"
            )
        if values["head_learning_rate"]:
            raise UserError(
                f"--head_learning_rate contradicts --method={method}, which finds the rates itself"
            )
    if values["optimizer"] in WITHOUT_RATE:
        raise UserError(
            f"{searching} contradicts --optimizer={values['optimizer']}, which estimates its own step size"
        )
    if values["head_epochs"] or values["unfreeze_epochs"]:
        name = "head_epochs" if values["head_epochs"] else "unfreeze_epochs"
        raise UserError(
            f"--{name} contradicts {searching}: its trials train all parts from the first step on; give a number"
        )


def _rates_of_parts_are_open(values: Mapping[str, Any]) -> None:
    """Refuse whatever else sets the rates of single parts."""
    if values.get("method") in SETS_BLOCKS:
        raise UserError(
            f"--learning_rate={FIND_BLOCKS} contradicts --method={values['method']}, which sets the rates of the blocks"
        )
    for name in ("layer_decay", "discriminative_ratio", "rate_factors", "head_learning_rate"):
        if values[name] != DEFAULTS[name]:
            raise UserError(
                f"--{name} contradicts --learning_rate={FIND_BLOCKS}, which finds the rates of all parts"
            )
