"""What people read: progress lines, tables, the report page."""

import io

import numpy as np
import pytest
from PIL import Image

from finetune_jax.reports import figures, tables
from finetune_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_plain_lines_now_and_then_and_the_rate_leaves_out_the_first_step(clock):
    log = io.StringIO()
    progress = Progress(1000, stream=log)
    clock[0] += 50  # compiling
    assert progress.advance(100)
    progress.show("epoch 1/2", {"loss": 2.5})
    shown = []
    for _ in range(4):
        clock[0] += 10
        if progress.advance(100):
            progress.show("epoch 1/2", {"loss": 1.0})
            shown.append(clock[0])
    assert len(shown) == 2
    lines = log.getvalue().splitlines()
    assert lines[0] == "epoch 1/2  loss 2.5000"
    assert lines[-1] == "epoch 1/2  loss 1.0000  10 images/s  0:50 left"
    assert "\r" not in log.getvalue()


def test_a_terminal_gets_one_line_rewritten_and_lines_that_stay(clock):
    terminal = Terminal()
    progress = Progress(300, stream=terminal)
    for _ in range(2):
        clock[0] += 1
        progress.advance(100)
        progress.show("epoch 1/1", {})
    progress.line("done")
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\r\x1b[Kdone\n")


def test_other_processes_print_nothing(clock):
    log = io.StringIO()
    progress = Progress(10, silent=True, stream=log)
    progress.advance(5)
    progress.show("epoch", {"loss": 1.0})
    progress.line("done")
    assert log.getvalue() == ""


def test_tables_align_text_left_and_numbers_right():
    text = tables.table(["name", "n"], [["a", 1], ["long name", 12345], ["none", None]])
    assert text.splitlines() == [
        "name            n",
        "---------  ------",
        "a               1",
        "long name  12,345",
        "none            –",
    ]


def test_the_confusion_figure_is_darkest_where_the_share_is_largest():
    matrix = np.array([[9, 1], [0, 10]])
    with Image.open(io.BytesIO(figures.confusion(matrix, ["cat", "dog"]))) as picture:
        grey = np.asarray(picture.convert("L"), np.float64)
    inside = [slice(int(f * grey.shape[0]), int((f + 0.05) * grey.shape[0])) for f in (0.15, 0.6)]
    assert grey[inside[1], inside[1]].mean() < grey[inside[0], inside[1]].mean()


def test_curves_are_drawn_for_the_splits_that_were_measured():
    rows = [
        {"epoch": str(e), "train_loss": "1.0", "train_accuracy": "0.5", "test_accuracy": ""} for e in (1, 2)
    ]
    with Image.open(io.BytesIO(figures.training_curves(rows, 1))) as picture:
        assert picture.size[0] > picture.size[1] > 100
