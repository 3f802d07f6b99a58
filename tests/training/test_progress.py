"""Lines of progress: in logs too, something is said while the first step compiles."""

import io
import time

from finetune_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def waited_for(stream, seconds, silence=0.05):
    progress = Progress(10, stream=stream, silence=silence)
    progress.wait_for("compiling the training step")
    time.sleep(seconds)
    progress.go_on()
    return progress


def test_a_long_wait_is_told_once_in_a_log():
    stream = io.StringIO()
    progress = waited_for(stream, 0.3)
    progress.wait_for("compiling the training step")
    time.sleep(0.3)
    progress.go_on()
    assert stream.getvalue() == "compiling the training step …\n"


def test_a_short_wait_is_not_told_and_a_silent_process_says_nothing():
    stream = io.StringIO()
    waited_for(stream, 0.0, silence=60.0)
    assert stream.getvalue() == ""
    progress = Progress(10, stream=stream, silent=True, silence=0.0)
    progress.wait_for("compiling")
    time.sleep(0.05)
    progress.go_on()
    assert stream.getvalue() == ""


def test_on_a_terminal_the_next_line_takes_the_place_of_the_wait():
    stream = Terminal()
    progress = waited_for(stream, 0.3)
    progress.line("epoch 1/2")
    assert stream.getvalue() == "\r\x1b[Kcompiling the training step …\r\x1b[Kepoch 1/2\n"
