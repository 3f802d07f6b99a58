"""Which settings go with which task; also asked when the task is known from the data alone."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.config.choices import AUTO, LABEL_LOSSES, VALUE_LOSSES
from finetune_jax.config.declaration import written
from finetune_jax.errors import UserError

_LOSSES: Mapping[str, tuple[str, ...]] = {
    "classification": LABEL_LOSSES,
    "retrieval": (*LABEL_LOSSES, "proxy_anchor"),
    "multilabel": LABEL_LOSSES,
    "ordinal": ("cross_entropy", "bce"),
    "regression": ("cross_entropy", *VALUE_LOSSES),
}
SCORES: Mapping[str, str] = {
    "classification": "accuracy",
    "multilabel": "mean_average_precision",
    "ordinal": "quadratic_kappa",
    "regression": "r2",
}
"""By which runs of a task are compared, without the split; retrieval has a setting for it."""
_ONE_CLASS = ("classification", "retrieval")
_TASKS_OF: Mapping[str, tuple[str, ...]] = {
    "label_smoothing": _ONE_CLASS,
    "class_weights": _ONE_CLASS,
    "balanced_sampling": (*_ONE_CLASS, "ordinal"),
    "images_per_class": (*_ONE_CLASS, "ordinal"),
    "predict_unlabelled": ("classification",),
}
"""Settings that only some tasks have a meaning for."""
_WHY: Mapping[str, str] = {
    "multilabel": "where an image has any number of classes",
    "regression": "which has no classes",
    "ordinal": "whose grades are learned as one question each",
    "retrieval": "which labels no image",
}


def refuse_unfit(values: Mapping[str, Any], task: str) -> None:
    """Refuse settings that have no meaning for a task.

    Args:
        values: of all settings of a run, ``{name: value}``.
        task: one of ``config.choices.TASKS`` other than ``auto``.

    Raises:
        UserError: names the setting and the task.
    """
    loss = values["loss"]
    if loss not in _LOSSES[task]:
        choices = [name for name in _LOSSES[task] if not (task == "regression" and name == "cross_entropy")]
        raise UserError(f"--loss={loss} has no meaning with --task={task}; choose {', '.join(choices)}")
    for name, tasks in _TASKS_OF.items():
        if task not in tasks and values[name] not in (False, 0, "none"):
            raise UserError(
                f"--{name}={written(values[name])} has no meaning with --task={task}, {_WHY[task]}; leave it out"
            )
    if values["learning_rate"] == AUTO and task in ("multilabel", "regression"):
        raise UserError(
            f"--learning_rate=auto compares classes and has no meaning with --task={task}, {_WHY[task]}; give a number"
        )


def task_of(config: Any) -> str:
    """The task as far as the settings tell: ``auto`` where the labels decide.

    >>> from finetune_jax.config.settings import FinetuneConfig
    >>> task_of(FinetuneConfig(loss="huber")), task_of(FinetuneConfig(protocol="retrieval"))
    ('regression', 'retrieval')
    """
    if config.protocol == "retrieval":
        return "retrieval"
    if config.task == "auto" and getattr(config, "loss", "") in VALUE_LOSSES:
        return "regression"
    return config.task
