"""Ctrl-C: the first one saves within a step and ends with 130, the second one ends at once, whatever is going on."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from child_processes import FAST_COMPILATION

from finetune_jax.devices.replicas import Replicas
from finetune_jax.files import checkpoints
from finetune_jax.training.stopping import StopRequest

ROOT = Path(__file__).parents[2]
RUN = [
    *("-m", "experiments.finetune", "--dataset=digits", "--network=resnet26_policy", "--width=0.125"),
    *("--image_size=8", "--batch_size=64", "--epochs=500", "--pretrained=none", "--method=scratch"),
]
# Stands for a compilation, minutes in which no instruction of Python is executed, and for a callback that swallows
# the interrupt.
STUCK = """
import hashlib, os, signal, sys
from finetune_jax.commands import interruption
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
interruption.watch()
sys.stdout.write('printed before')
for turn in range(2):
    try:
        os.write(2, b'' if turn else b'ready\\n')
        hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_request_is_answered_between_two_steps_and_the_handlers_come_back(signum: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest(Replicas(())) as stop:
        assert not stop()
        os.kill(os.getpid(), signum)
        assert stop()
        assert (stop.came, stop.signum) == (True, signum)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_in_another_thread_than_the_main_one_leaves_signals_alone() -> None:
    answers = []

    def run() -> None:
        with StopRequest(Replicas(())) as stop:
            answers.append(stop())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False]


def test_ctrl_c_saves_the_step_says_how_to_go_on_and_ends_with_130(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, *RUN, f"--workdir={workdir}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": FAST_COMPILATION},
    )
    assert process.stderr is not None
    try:
        assert any("epoch 2/500" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    step = checkpoints.latest_step(workdir / "checkpoints")
    assert process.returncode == 130, errors
    assert f" of 500, saved at step {step}; the same command goes on from there ({workdir})\n" in errors
    assert "Traceback" not in errors
    assert step is not None
    assert step >= 40
    assert not (workdir / ".lock").exists()


def test_a_second_ctrl_c_ends_also_a_process_that_is_stuck_outside_of_python() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        notice = [
            process.stderr.readline() for _ in range(2)
        ]  # only now: two signals at once may come as one
        assert "Ctrl-C again ends at once" in notice[1]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert output == "printed before"
