"""What a trained policy does to the images of a split (SpotTune, Figures 3 and 4)."""

from collections.abc import Sequence

import numpy as np

_NEARLY_ALL = 0.99


def collapse(decisions: np.ndarray) -> str:
    """A sentence if a policy routes nearly all images the same way everywhere, else empty.

    Args:
        decisions: ``[N, L]`` of 0 (frozen) and 1 (fine-tuned).

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import policies
        >>> policies.collapse(np.array([[1, 0], [0, 1]]))
        ''
        >>> policies.collapse(np.ones((4, 2))).split(":")[0]
        'the policy has collapsed'
    """
    share = float(decisions.mean())
    if share >= _NEARLY_ALL:
        path, other = "fine-tuned", "standard fine-tuning"
    elif share <= 1 - _NEARLY_ALL:
        path, other = "frozen", "a feature extractor"
    else:
        return ""
    return (
        f"the policy has collapsed: {100 * max(share, 1 - share):.1f} % of its decisions on the test images take "
        f"the {path} copy, which makes the network {other}; try another --policy_learning_rate or --temperature"
    )


def usage_per_class(
    decisions: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Share of images that are fine-tuned, ``{class: [L]}`` of the classes with images (Figure 3).

    Args:
        decisions: ``[N, L]``.
        labels: ``[N]``, places in ``class_names``.
        class_names: of all classes.

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import policies
        >>> decisions = np.array([[1, 0], [1, 1], [0, 0]])
        >>> usage = policies.usage_per_class(decisions, np.array([0, 0, 1]), ("cat", "dog"))
        >>> {name: shares.tolist() for name, shares in usage.items()}
        {'cat': [1.0, 0.5], 'dog': [0.0, 0.0]}
    """
    return {class_names[label]: decisions[labels == label].mean(0) for label in np.unique(labels)}


def tuned_block_counts(decisions: np.ndarray) -> np.ndarray:
    """How many images use 0, 1 … L fine-tuned blocks, ``[N, L] → [L + 1]`` (Figure 4).

    Examples:
        >>> import numpy as np
        >>> from finetune_jax import policies
        >>> policies.tuned_block_counts(np.array([[1, 0], [1, 1], [0, 0]])).tolist()
        [1, 1, 1]
    """
    return np.bincount(decisions.sum(1).astype(int), minlength=decisions.shape[1] + 1)
