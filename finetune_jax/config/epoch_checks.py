"""Contradictions among settings that count epochs."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.config.declaration import written
from finetune_jax.errors import UserError


def restarts_come_before_the_end(values: Mapping[str, Any]) -> None:
    """Every period of the schedule has an epoch.

    Raises:
        UserError: the last one has none.
    """
    restarts = values.get("restart_epochs")
    if restarts and restarts[-1] >= values.get("epochs", restarts[-1] + 1):
        raise UserError(
            f"--restart_epochs={written(restarts)} leaves none of --epochs={values['epochs']} after the last of them"
        )


def head_comes_first(values: Mapping[str, Any]) -> None:
    """Where the head learns alone first, there are other parts and epochs for them.

    Raises:
        UserError: there are not, or a head is to be kept that is not there.
    """
    method = values.get("method")
    for name in ("head_epochs", "unfreeze_epochs"):
        if not values.get(name):
            continue
        if method in ("feature_extractor", "progressive", "scratch"):
            raise UserError(
                f"--{name}={values[name]} has no meaning with --method={method}, which has no pretrained parts to "
                "train after the head"
            )
        if values.get("pretrained") == "none":
            raise UserError(
                f"--{name}={values[name]} has no meaning with --pretrained=none: nothing is worth keeping"
            )
    if values.get("head_epochs", 0) >= values.get("epochs", 1) and values.get("head_epochs"):
        raise UserError(
            f"--head_epochs={values['head_epochs']} leaves none of --epochs={values['epochs']} for the other parts; "
            "use --method=feature_extractor to train the head alone"
        )
    if values.get("from_probe") and values.get("keep_head"):
        raise UserError("--from_probe contradicts --keep_head, which brings a head; leave one of them out")
    if values.get("from_probe") and values.get("pretrained") == "none":
        raise UserError(
            "--from_probe has no meaning with --pretrained=none, which has no features to learn from"
        )
    if values.get("keep_head") and (values["pretrained"] == "none" or method == "scratch"):
        without = "--pretrained=none" if values["pretrained"] == "none" else "--method=scratch"
        raise UserError(f"--keep_head contradicts {without}, which brings no head")
