"""Class names as what they say: grades in an order, or numbers."""

import dataclasses
import itertools
import math

import numpy as np

from finetune_jax.data.examples import Examples, Source
from finetune_jax.errors import UserError, readable


def graded(source: Source) -> Source:
    """The source with its classes in the order of the numbers that are their names.

    Raises:
        UserError: a class name is no number, or two are the same number.
    """
    values = values_of(source, "ordinal")
    if len(set(values)) < len(values):
        same = sorted(values)
        first = next(value for value, after in itertools.pairwise(same) if value == after)
        raise UserError(f"--dataset={source.name}: two grades are the number {first:g}; write it one way")
    order = np.argsort(values, kind="stable")
    new_labels = np.argsort(order)
    return dataclasses.replace(
        source,
        class_names=tuple(source.class_names[number] for number in order),
        splits={split: examples.relabelled(new_labels) for split, examples in source.splits.items()},
        task="ordinal",
    )


def as_numbers(source: Source) -> Source:
    """The source with the numbers that its class names are as targets; one of numbers stays as it is.

    Raises:
        UserError: a class name is no number.
    """
    if source.task == "regression":
        return source
    values = np.array(values_of(source, "regression"), np.float32)

    def numbers(examples: Examples) -> Examples:
        targets = values[examples.labels][:, None]
        return dataclasses.replace(examples, labels=np.zeros(len(examples), np.int32), targets=targets)

    return dataclasses.replace(
        source,
        class_names=("value",),
        splits={split: numbers(examples) for split, examples in source.splits.items()},
        task="regression",
    )


def values_of(source: Source, task: str) -> list[float]:
    """The numbers that the class names are.

    Raises:
        UserError: one is none.
    """
    values = []
    for name in source.class_names:
        try:
            value = float(name)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"--task={task} needs labels that are numbers, and --dataset={source.name} has the class "
                f"{readable(name)}"
            )
        values.append(value)
    return values
