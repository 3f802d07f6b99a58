"""When the processes of a job stop together: SIGTERM reaches them at different times, perhaps only one of them."""

import threading


class StopAgreement:
    """Counts how often the training loop has asked whether to stop, and answers so that all processes agree.

    Each process publishes its count and asks no further until all have; they stop at the question after the largest
    count, which none of them has asked yet, and which all of them come to.
    """

    def __init__(self) -> None:
        self._may_ask = threading.Lock()
        self._asked = 0
        self._stop_at: int | None = None
        self._asking = False
        self._answered = threading.Event()

    def ask(self) -> bool:
        """Whether to stop now; asked by the training loop between two dispatches, equally often everywhere."""
        with self._may_ask:
            self._asking = True
            self._asked += 1
            stop = self._stop_at is not None and self._asked >= self._stop_at
        if stop:
            self._answered.set()
        return stop

    def loop_ended(self) -> None:
        """Nobody asks for now."""
        with self._may_ask:
            self._asking = False

    def hold(self) -> int | None:
        """Make the loop wait at its next question until :meth:`settle`.

        Returns:
            How many it has asked; None where no loop is training yet, or no more.
        """
        self._may_ask.acquire()
        return self._asked if self._asking else None

    def settle(self, counts: list[int]) -> None:
        """Stop at the question after the largest of all processes' counts."""
        self._stop_at = max(counts) + 1
        self._may_ask.release()

    @property
    def answered(self) -> bool:
        """Whether the loop knows that it should stop."""
        return self._answered.is_set()
