"""The classes that a network is trained on."""

import numpy as np

from finetune_jax.data.examples import Source
from finetune_jax.errors import UserError


def trained_classes(source: Source) -> tuple[str, ...]:
    """Names of all classes of a data set whose images have one each.

    Raises:
        UserError: there is one class, or one without training images.
    """
    names = source.class_names
    absent = np.setdiff1d(np.arange(len(names)), source.splits["train"].labels)
    if absent.size:
        raise UserError(
            f"{source.name} has no training images of {', '.join(names[i] for i in absent[:10])}; "
            "add some, or remove the class"
        )
    if len(names) < 2:
        raise UserError(f"{source.name} has only the class {names[0]}; at least two are needed")
    return names
