"""Checks of a config: its values, settings without effect, and settings that contradict each other."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from finetune_jax.config import data_shards, epoch_checks, fit_task, methods, object_stores, rate_checks
from finetune_jax.config.choices import (
    ALTERNATIVES,
    AUTO,
    ELEMENTWISE,
    FIGURES,
    IN_PROPORTION,
    LOGGERS,
    POLICIES,
    RANGE_TESTS,
    WITHOUT_RATE,
)
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
        if isinstance(value, str) and (address := object_stores.refusal(name, value)):
            raise UserError(address)
    for name, setting in settings.items():
        value = values[name]
        is_number = value is not None and not (isinstance(value, str) and setting.words)
        if setting.range and is_number and not setting.range.accepts(value):
            raise UserError(f"--{name}={written(value)} is out of range; give {setting.range.words}")
    for setting in settings.values():
        if refusal := setting.refusal(values):
            raise UserError(refusal)
    if refusal := data_shards.refusal(values):
        raise UserError(refusal)
    for check in _CONTRADICTIONS:
        check(values)
    if "loss" in values and values["task"] != "auto":
        fit_task.refuse_unfit(values, values["task"])


def _one_task(values: Mapping[str, Any]) -> None:
    task, protocol = values.get("task", "auto"), values.get("protocol")
    if protocol == "retrieval" and task not in ("auto", "retrieval"):
        raise UserError(f"--task={task} contradicts --protocol=retrieval; leave one of them out")


def _weights_of_the_method(values: Mapping[str, Any]) -> None:
    method = values.get("method")
    if values.get("pretrained") == "none" and method is not None and methods.BY_NAME[method].needs_weights:
        raise UserError(f"--method={method} needs weights; give --pretrained something but none")
    if values.get("pretrained") == "none" and values.get("add_adapter"):
        raise UserError("--add_adapter needs the weights that it was trained on; give them as --pretrained")


def _adapters_are_trained(values: Mapping[str, Any]) -> None:
    if values.get("adapters", "none") != "none":
        if values.get("pretrained") == "none":
            raise UserError("--adapters=lora needs weights to adapt; give --pretrained something but none")
        return
    if values.get("method") != "autolr":
        return
    for name in ("lora_rank", "lora_alpha", "lora_targets", "save_adapter"):
        if values.get(name, DEFAULTS[name]) != DEFAULTS[name]:
            raise UserError(f"--{name} has no meaning with --method=autolr alone; add --adapters=lora")


def _one_balance(values: Mapping[str, Any]) -> None:
    weights = values.get("class_weights", "none")
    if values.get("balanced_sampling") and weights.startswith("balanced"):
        raise UserError(f"--balanced_sampling and --class_weights={weights} correct the same thing twice")


def _fractions_leave_training_images(values: Mapping[str, Any]) -> None:
    if values.get("validation_fraction", 0) + values.get("test_fraction", 0) >= 1:
        raise UserError("--validation_fraction and --test_fraction together leave no training images")


def _known_loggers(values: Mapping[str, Any]) -> None:
    unknown = [name for name in values.get("loggers", ()) if name not in LOGGERS]
    if unknown:
        raise UserError(f"--loggers={unknown[0]} is not known; choose some of {', '.join(LOGGERS)}")


def _colours_are_of_three_channels(values: Mapping[str, Any]) -> None:
    channels, augmentation = values.get("channels", 3), values.get("augmentation", "none")
    if channels == 3:
        return
    colours = augmentation in POLICIES or (
        augmentation == "random_resized_crop" and (values["color_jitter"] or values["hue_jitter"])
    )
    if colours:
        instead = "give --color_jitter=0" if augmentation == "random_resized_crop" else "choose another one"
        raise UserError(
            f"--augmentation={augmentation} changes colours, which --channels={channels} have not; {instead}"
        )
    if values["pages"] == "channels" and channels == 1:
        raise UserError("--pages=channels needs --channels, the number of pages of each file")


def _streams_skip_nothing(values: Mapping[str, Any]) -> None:
    if values.get("decode") == "stream" and values["skip_unreadable"]:
        raise UserError(
            "--skip_unreadable contradicts --decode=stream, which does not look at images before training; give "
            "--decode=cache"
        )


def _fold_of_folds(values: Mapping[str, Any]) -> None:
    folds, fold = values.get("folds", 0), values.get("fold", 1)
    if folds == 1:
        raise UserError("--folds=1 is out of range; give at least 2, or 0 for none")
    if fold > max(folds, 1):
        of = f"--folds={folds}" if folds else "--folds, which is not given"
        raise UserError(f"--fold={fold} is none of {of}")


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


def _formats_of_figures(values: Mapping[str, Any]) -> None:
    names = values.get("figures", ())
    if unknown := [name for name in names if name not in FIGURES]:
        raise UserError(
            f"--figures={','.join(names)}: {unknown[0]} is no format; give some of {', '.join(FIGURES)}"
        )


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


def _weights_of_classes_are_known(values: Mapping[str, Any]) -> None:
    weights = values.get("class_weights", "none")
    if weights in ("none", "balanced") or weights.endswith(".csv"):
        return
    kind, _, power = weights.partition(":")
    try:
        known = kind == "balanced" and 0 < float(power) <= 1
    except ValueError:
        known = False
    if not known:
        raise UserError(
            f"--class_weights={weights} is not known; choose none, balanced, balanced:POWER with a power above 0 and "
            "up to 1, or FILE.csv"
        )


def _something_is_mixed(values: Mapping[str, Any]) -> None:
    if "mixup" not in values:
        return
    used = [name for name in ("mixup", "cutmix") if values[name]]
    for name in ("mix_probability", "mixup_off_epoch"):
        if values[name] != DEFAULTS[name] and not used:
            raise UserError(f"--{name}={written(values[name])} has no meaning without --mixup or --cutmix")
    if values["cutmix_probability"] != DEFAULTS["cutmix_probability"] and len(used) < 2:
        raise UserError("--cutmix_probability has no meaning without both of --mixup and --cutmix")


def _averages_of_weights(values: Mapping[str, Any]) -> None:
    ema, swa = values.get("ema_decay"), values.get("swa_epochs", 0)
    if ema is not None and swa:
        raise UserError("--ema_decay and --swa_epochs are two averages of the same weights; give one")
    if swa > values.get("epochs", swa):
        raise UserError(f"--swa_epochs={swa} is more than --epochs={values['epochs']}")
    kept = values.get("average_statistics", "estimated") != "estimated"
    if kept and not swa and values.get("optimizer") != "schedule_free_adamw":
        raise UserError(
            f"--average_statistics={values['average_statistics']} is for --swa_epochs and "
            "--optimizer=schedule_free_adamw"
        )
    if values.get("optimizer") == "schedule_free_adamw" and (ema is not None or swa):
        name = "swa_epochs" if swa else "ema_decay"
        raise UserError(
            f"--{name} contradicts --optimizer=schedule_free_adamw, which averages the weights itself"
        )


def _trials_start_over(values: Mapping[str, Any]) -> None:
    if values.get("method") != "autolr":
        return
    if values["optimizer"] in (*WITHOUT_RATE, "schedule_free_adamw"):
        raise UserError(
            f"--optimizer={values['optimizer']} contradicts --method=autolr: its steps depend on all since the start, "
            "and AutoLR starts epochs over with rates of its own"
        )
    if values["unfreeze_epochs"]:
        raise UserError(
            "--unfreeze_epochs contradicts --method=autolr, which sorts the movements of all blocks"
        )


def _steps_end_where_they_lead(values: Mapping[str, Any]) -> None:
    method, optimizer = values.get("method"), values.get("optimizer")
    if method in ("ftp", "tpgm") and optimizer in (*WITHOUT_RATE, "schedule_free_adamw"):
        raise UserError(
            f"--optimizer={optimizer} contradicts --method={method}, which moves the weights after its steps: it "
            "learns from where they have led"
        )
    if method == "tpgm" and values.get("ema_decay") is not None:
        raise UserError(
            "--ema_decay contradicts --method=tpgm, which moves the weights after the steps that are averaged; "
            "--swa_epochs averages those of epochs"
        )
    if method == "tpgm" and values.get("loss", "cross_entropy") != "cross_entropy":
        raise UserError(
            f"--loss={values['loss']} contradicts --method=tpgm, whose radii learn by cross-entropy"
        )


def _one_clip(values: Mapping[str, Any]) -> None:
    if values.get("clip", "none") != "none" and values["clip_norm"] is not None:
        raise UserError(f"--clip={values['clip']} and --clip_norm both shorten the gradient; give one")


def _shares_are_enough(values: Mapping[str, Any]) -> None:
    if not values.get("shard_parameters"):
        return
    method, optimizer = values["method"], values["optimizer"]
    if not methods.BY_NAME[method].in_shares:
        raise UserError(
            f"--shard_parameters is not for --method={method}, which puts networks together from several; it is for "
            f"{', '.join(methods.with_fact('in_shares'))}"
        )
    if optimizer not in ELEMENTWISE:
        raise UserError(
            f"--shard_parameters is not for --optimizer={optimizer}, which looks at whole arrays, and every device has "
            f"a share of them; use {', '.join(ELEMENTWISE[:-1])} or {ELEMENTWISE[-1]}"
        )
    if values["learning_rate"] in RANGE_TESTS:
        raise UserError(
            f"--shard_parameters is not for --learning_rate={values['learning_rate']}, which rehearses with whole "
            "networks"
        )
    if values["clip"] == "agc":
        raise UserError(
            "--shard_parameters is not for --clip=agc, which looks at the outputs of layers; use --clip_norm"
        )
    if values["keep_trials"]:
        raise UserError("--shard_parameters contradicts --keep_trials, which writes whole networks")


_CONTRADICTIONS = (
    _streams_skip_nothing,
    _colours_are_of_three_channels,
    _known_loggers,
    _fold_of_folds,
    _formats_of_figures,
    _one_task,
    _shares_are_enough,
    _weights_of_classes_are_known,
    _something_is_mixed,
    _averages_of_weights,
    _trials_start_over,
    _steps_end_where_they_lead,
    _one_clip,
    epoch_checks.head_comes_first,
    epoch_checks.restarts_come_before_the_end,
    _weights_of_the_method,
    _adapters_are_trained,
    rate_checks.one_rule_of_rates,
    rate_checks.movements_are_gradients,
    rate_checks.what_is_searched,
    _stretched_images_have_no_shorter_side,
    _one_of_alternatives,
    _where_similarity_says_nothing,
    _score_is_measured,
    _one_balance,
    _fractions_leave_training_images,
)
