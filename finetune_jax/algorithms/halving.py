"""Successive halving under a budget of seconds: which candidates go on, for how long, and which one is recommended.

Pure functions of what was measured, so that a study that was stopped decides as before.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (AISTATS
2016). There the number of rungs is fixed and the budget divided among them; here what is left of the budget says
whether there is another one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from finetune_jax.algorithms.uncertainty import mcnemar

FACTOR = 2
"""Epochs of a rung by those of the one before, and candidates of that by those of it."""

_FEWEST = 2
_TO_START = 20.0  # seconds of a trial beside its images: reading, compilation, saving
_PER_CLASS = 20  # training images below which fewer candidates are better than fewer images
_LEAST_PER_CLASS = 5
TRAINED, JUDGED = 3, 1
"""Passes through the network that an image takes, forwards as the unit."""
FIRST_SHARE = 0.5
"""Of the seconds left, for the first rung; what is left of them makes the comparison that counts."""
_DIFFERENT = 0.05


class Trial(NamedTuple):
    """What came of one candidate in one rung.

    Attributes:
        name: of the candidate.
        epochs: that it was trained.
        score: larger is better; NaN where it has none.
        seconds: from its start to its end.
        seconds_per_epoch: of its training.
    """

    name: str
    epochs: int
    score: float
    seconds: float
    seconds_per_epoch: float

    def predicted(self, epochs: int) -> float:
        """Seconds of a training of so many epochs: those beside the epochs stay.

        >>> Trial("a", 2, 0.5, seconds=10.0, seconds_per_epoch=3.0).predicted(4)
        16.0
        """
        return max(0.0, self.seconds - self.epochs * self.seconds_per_epoch) + epochs * self.seconds_per_epoch


class Rung(NamedTuple):
    """What is trained next.

    Attributes:
        epochs: of each.
        names: of the candidates, the best first.
    """

    epochs: int
    names: tuple[str, ...]


class Judged(NamedTuple):
    """A candidate at its end.

    Attributes:
        name: of it.
        right: bool ``[N]``, on which of the images it is right; of all candidates the same images.
        cost: of training it in full, in any unit.
    """

    name: str
    right: np.ndarray
    cost: float


class Verdict(NamedTuple):
    """What is recommended.

    Attributes:
        best: name of the candidate with the highest score.
        tied: names of all that are not measurably worse than it, the cheapest first; it is among them.
    """

    best: str
    tied: tuple[str, ...]

    @property
    def recommended(self) -> str:
        """The cheapest of those that are tied."""
        return self.tied[0]


def first_epochs(most_epochs: int) -> int:
    """Epochs of the first rung: an eighth of a whole training, and two where there are as many.

    Two, as the first one compiles: the second says what further ones cost.

    >>> first_epochs(20), first_epochs(8), first_epochs(1)
    (3, 2, 1)
    """
    return min(most_epochs, max(2, math.ceil(most_epochs / FACTOR**3)))


def images_per_class(
    candidates: int,
    *,
    seconds_left: float,
    epochs: int,
    images: int,
    classes: int,
    judged: int,
    milliseconds: float,
) -> int:
    """Training images per class of the trials of the first rung, so that several of them fit into the time.

    As many candidates as have at least twenty images per class; at least two, with as many images as there is time for.

    Args:
        candidates: how many there are.
        seconds_left: of the budget, of which the first rung may take :data:`FIRST_SHARE`.
        epochs: of the first rung.
        images: for training.
        classes: of them.
        judged: images that each epoch is judged by.
        milliseconds: that an image takes forwards.

    Returns:
        0 where there is time for all images.

    >>> settings = {"epochs": 2, "images": 3000, "classes": 10, "judged": 300, "milliseconds": 20.0}
    >>> [images_per_class(8, seconds_left=float(seconds), **settings) for seconds in (200, 600, 3600, 36000)]
    [5, 25, 150, 0]
    """
    enough = min(images, _PER_CLASS * classes)

    def affordable(count: int) -> float:
        passes = 1000 * (FIRST_SHARE * seconds_left / count - _TO_START) / milliseconds
        return (passes - JUDGED * (epochs + 2) * judged) / (TRAINED * epochs)

    for count in range(candidates, 0, -1):
        affordable_images = affordable(count)
        if affordable_images >= enough or count <= _FEWEST:
            return (
                0 if affordable_images >= images else max(_LEAST_PER_CLASS, int(affordable_images / classes))
            )
    return 0


def next_rung(trials: Sequence[Trial], *, seconds_left: float, most_epochs: int) -> Rung | None:
    """The rung after one.

    The better half goes on for twice the epochs, two at least where there are two, so that the end is a comparison at
    equal epochs. Where the seconds do not suffice the worse ones are left out, and where not even one can go on for so
    long, it is the end. Of equal scores the candidate that costs less per epoch comes first.

    Args:
        trials: of the rung that has ended.
        seconds_left: of the budget.
        most_epochs: of a whole training.

    Returns:
        None where there is nothing to go on with, or no time.

    >>> trials = [Trial("a", 2, 0.5, 10.0, 4.0), Trial("b", 2, 0.7, 10.0, 4.0), Trial("c", 2, 0.6, 10.0, 4.0)]
    >>> next_rung(trials, seconds_left=36.0, most_epochs=20)
    Rung(epochs=4, names=('b', 'c'))
    >>> next_rung(trials, seconds_left=35.0, most_epochs=20)
    Rung(epochs=4, names=('b',))
    >>> next_rung(trials, seconds_left=17.0, most_epochs=20)
    """
    finished = [trial for trial in trials if not math.isnan(trial.score)]
    if not finished or finished[0].epochs >= most_epochs:
        return None
    epochs = min(most_epochs, FACTOR * finished[0].epochs)
    ranked = sorted(finished, key=lambda trial: (-trial.score, trial.seconds_per_epoch))
    kept = ranked[: max(_FEWEST, math.ceil(len(ranked) / FACTOR))]
    while kept and sum(trial.predicted(epochs) for trial in kept) > seconds_left:
        kept = kept[:-1]
    return Rung(epochs, tuple(trial.name for trial in kept)) if kept else None


def verdict(candidates: Sequence[Judged]) -> Verdict:
    """The best candidate, and those that cannot be told from it by McNemar's test on the same images.

    Args:
        candidates: at least one.

    >>> right = np.arange(40) < 30
    >>> verdict([Judged("a", right, 9.0), Judged("b", np.roll(right, 1), 2.0), Judged("c", ~right, 1.0)])
    Verdict(best='b', tied=('b', 'a'))
    """
    # Of equal scores the cheapest is called the best.
    best = min(candidates, key=lambda candidate: (-int(candidate.right.sum()), candidate.cost))
    tied = [
        candidate
        for candidate in candidates
        if candidate.name == best.name or mcnemar(best.right, candidate.right) > _DIFFERENT
    ]
    return Verdict(best.name, tuple(one.name for one in sorted(tied, key=lambda one: one.cost)))
