"""Where a study stands, in one line for each of its runs."""

from finetune_jax.reports.tables import percent


class Progress:
    """Counts the runs of a study; a study says what it expects and begins, ``Runs`` prints :meth:`line`.

    The default of every study, it prints nothing by itself.
    """

    def __init__(self) -> None:
        self._total = 0
        self._begun = 0
        self.label = ""
        """Of the run that has begun last."""
        self._best: tuple[str, float] | None = None
        self._seconds: list[float] = []

    def expect(self, runs: int) -> None:
        """So many runs more are to come."""
        self._total += runs

    def begin(self, label: str) -> None:
        """The next run is ``label``."""
        self._begun += 1
        self.label = label

    def scored(self, name: str, score: float) -> None:
        """A run called ``name`` has a validation score in [0, 1]; NaN, which a diverged one has, does not count."""
        if score == score and (self._best is None or score > self._best[1]):
            self._best = name, score

    def trained(self, seconds: float, *, runs: int = 1) -> None:
        """So many runs were trained in so many seconds each."""
        self._seconds += [seconds] * runs

    def line(self) -> str:
        """See :func:`progress_line`."""
        left = None
        if self._seconds:
            per_run = sum(self._seconds) / len(self._seconds)
            left = per_run * (max(self._total, self._begun) - self._begun + 1)
        return progress_line(self._begun, self._total, self.label, best=self._best, seconds_left=left)


def progress_line(
    number: int,
    total: int,
    label: str,
    *,
    best: tuple[str, float] | None = None,
    seconds_left: float | None = None,
) -> str:
    """A line such as ``run 7 of 33 · AutoLR at 0.01, seed 1 · best so far: single rate 82.10 % · about 1:20 left``.

    Args:
        number: of the run that begins, from 1.
        total: how many are expected; less than ``number`` where that is not known.
        label: of the run.
        best: name and validation score in [0, 1] of the best so far.
        seconds_left: until all are trained, this one included.

    >>> progress_line(7, 33, "AutoLR at 0.01, seed 1", best=("single rate", 0.821), seconds_left=80)
    'run 7 of 33 · AutoLR at 0.01, seed 1 · best so far: single rate 82.10 % · about 1:20 left'
    """
    parts = [f"run {number} of {total}" if total >= number else f"run {number}", label]
    if best is not None:
        parts.append(f"best so far: {best[0]} {percent(best[1])}")
    if seconds_left is not None:
        parts.append(f"about {_clock(seconds_left)} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
