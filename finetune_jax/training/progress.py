"""Progress of training on a terminal (one line, rewritten) or in a log (a plain line now and then)."""

import sys
import threading
import time
from typing import TextIO

from finetune_jax.reports.tables import score_text

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 15.0
_SILENCE_SECONDS = 1.0


class Progress:
    """Prints loss, accuracy, images per second and the time left of a run."""

    def __init__(
        self,
        total_images: int,
        *,
        silent: bool = False,
        stream: TextIO | None = None,
        silence: float = _SILENCE_SECONDS,
    ) -> None:
        """Start the clock.

        Args:
            total_images: images the rest of the run will train on.
            silent: print nothing.
            stream: standard error by default.
            silence: seconds after which :meth:`wait_for` says something.
        """
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._silent = silent
        self._silence = silence
        self._total = total_images
        self._seen = 0
        self._start: float | None = None
        self._shown = time.monotonic()
        self._open_line = False
        self._waiting: threading.Timer | None = None
        self._has_waited = False

    def wait_for(self, what: str) -> None:
        """Say what is being waited for if that takes longer than a moment; the first time only, until :meth:`go_on`."""
        if self._has_waited or self._silent:
            return
        self._has_waited = True
        self._waiting = threading.Timer(self._silence, self._say, (f"{what} …",))
        self._waiting.daemon = True
        self._waiting.start()

    def go_on(self) -> None:
        """The wait is over."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
            waiting.join()

    def expect(self, images: int) -> None:
        """There are this many images more to train on."""
        self._total += images

    def advance(self, images: int) -> bool:
        """Count images; True when it is time to :meth:`show`."""
        now = time.monotonic()
        if self._start is None:
            self._start = now  # the first step compiles, which says nothing about the rest
            self._total -= images
        else:
            self._seen += images
        return now - self._shown >= (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS)

    def show(self, label: str, values: dict[str, float]) -> None:
        """Print where the run stands, e.g. ``epoch 3/20  loss 0.41 …``."""
        self._shown = time.monotonic()
        elapsed = self._shown - (self._start or self._shown)
        numbers = "  ".join(f"{name} {score_text(name, value)}" for name, value in values.items())
        line = f"{label}  {numbers}"
        if self._seen and elapsed > 0:
            rate = self._seen / elapsed
            line += f"  {rate:.0f} images/s  {_clock((self._total - self._seen) / rate)} left"
        self._say(line)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._write(("\r\x1b[K" if self._open_line else "") + text + "\n")
        self._open_line = False
        self._shown = time.monotonic()

    def _say(self, text: str) -> None:
        if self._terminal:
            self._write("\r\x1b[K" + text)
            self._open_line = True
        else:
            self._write(text + "\n")

    def _write(self, text: str) -> None:
        if not self._silent:
            self._stream.write(text)
            self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
