"""Ctrl-C: the first one stops in good order, the second one ends the process at once."""

import contextlib
import os
import signal
import sys
import threading

STATUS = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as in shells."""

_FLUSH_SECONDS = 1.0
_NOTICE = b"\nstopping; what is in progress is saved first (Ctrl-C again ends at once, without saving)\n"

_watching = False


def watch() -> None:
    """From now on a second Ctrl-C ends the process, whatever it is doing.

    Handlers of Python run between two instructions of the main thread only, which may be compiling for a minute, or
    wait for ever. So a thread reads the signals from a pipe, into which Python writes them at once.
    """
    global _watching
    if _watching or threading.current_thread() is not threading.main_thread():
        return
    _watching = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_count, args=(reading,), name="interruption", daemon=True).start()


def end(status: int = STATUS) -> None:
    """End the process now, without waiting for threads; what was printed is flushed.

    The interpreter's own end waits for threads of JAX, which may wait for the interpreter.
    """
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_SECONDS)  # a stream may be locked by the thread that is stuck
    os._exit(status)


def _count(reading: int) -> None:
    interrupts = 0
    while content := os.read(reading, 64):
        for signum in content:
            interrupts += signum == signal.SIGINT
            if signum == signal.SIGINT and interrupts == 1:
                with contextlib.suppress(OSError):
                    os.write(2, _NOTICE)
        if interrupts > 1:
            end()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
