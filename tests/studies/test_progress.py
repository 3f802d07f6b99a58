"""The line that says where a study stands."""

import math

import pytest

from finetune_jax.studies.progress import Progress, progress_line


def test_the_line_holds_only_what_is_known():
    assert progress_line(1, 33, "AutoLR at 0.01, seed 1") == "run 1 of 33 · AutoLR at 0.01, seed 1"
    assert progress_line(2, 0, "digits") == "run 2 · digits"
    assert progress_line(3, 3, "a", seconds_left=3723.4) == "run 3 of 3 · a · about 1:02:03 left"
    full = progress_line(7, 33, "AutoLR at 0.01, seed 1", best=("single rate", 0.821), seconds_left=80)
    assert full == (
        "run 7 of 33 · AutoLR at 0.01, seed 1 · best so far: single rate 82.10 % · about 1:20 left"
    )


def test_the_time_left_is_of_the_runs_that_were_really_trained():
    progress = Progress()
    progress.expect(4)
    progress.begin("first")
    assert progress.line() == "run 1 of 4 · first"
    progress.trained(10.0)
    progress.scored("first", 0.5)
    progress.begin("known")  # found finished: no seconds
    progress.scored("known", math.nan)
    progress.begin("third")
    assert progress.line() == "run 3 of 4 · third · best so far: first 50.00 % · about 0:20 left"
    progress.expect(2)  # a grid that is widened
    progress.trained(20.0)
    progress.scored("third", 0.6)
    progress.begin("fourth")
    assert progress.line() == "run 4 of 6 · fourth · best so far: third 60.00 % · about 0:45 left"


@pytest.mark.parametrize("runs", [1, 3])
def test_runs_that_are_trained_at_once_share_the_seconds(runs):
    progress = Progress()
    progress.expect(2 * runs)
    for place in range(runs):
        progress.begin(str(place))
    progress.trained(30.0 / runs, runs=runs)
    progress.begin("next")
    assert progress.line().endswith("about 0:30 left")
