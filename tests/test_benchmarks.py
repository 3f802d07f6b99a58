"""The benchmark scripts at tiny sizes and without PyTorch: they run, count right, and compare the right pairs."""

import importlib.util
import io
import json
import sys
import time
import zipfile

import fork_server
import jax
import numpy as np
import pytest

from benchmarks import (
    accelerator,
    augmentations,
    decoding,
    default_rates,
    folder_epochs,
    fresh_head,
    host_work,
    recipes,
    spottune_step,
    step_memory,
    step_pieces,
    streaming_memory,
    train_step,
)
from finetune_jax.devices.replicas import local_replicas

TINY = train_step.Case("resnet26_policy", 0.1, image_size=8, batch=4, train_steps=2, predict_steps=3)


class ScriptedSide:
    """Rounds of given length; notes the calls."""

    def __init__(self, name, seconds, calls, parameters=7):
        self.name, self.seconds, self.calls, self.parameters = name, seconds, calls, parameters

    def version(self):
        return self.name

    def matmul(self, size, bfloat16=False):
        return 2 * size**3 / 5e9

    def prepare(self, case):
        self.calls.append((self.name, case))
        self.left = iter(self.seconds * len(train_step.TASKS))
        return self.parameters

    def run(self, task):
        self.calls.append((self.name, task))
        return next(self.left)


def table(output):
    """The Markdown table in ``output`` as a list of ``{column: cell}``."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def first_number(cell):
    return float(cell.split()[0].rstrip("%"))


def test_training_and_prediction_of_the_real_step_have_positive_rates(capsys):
    ours = train_step.OurSide(local_replicas(jax.devices()[:1]))
    train_step.compare([TINY], rounds=1, ours=ours, theirs=None, matmul_size=64)
    rows = table(capsys.readouterr().out)
    assert [row["task"] for row in rows] == ["train", "predict"]
    for row in rows:
        assert first_number(row["ours, images/s"]) > 0
        assert row["PyTorch, images/s"] == ""


def test_ratios_compare_the_counted_rounds_of_a_pair_and_leave_out_those_that_warm_up(capsys, monkeypatch):
    monkeypatch.setattr(train_step, "SECONDS_BETWEEN_ROUNDS", 0)
    calls = []
    ours = ScriptedSide("ours", [100.0, 50.0, 1.0, 60.0, 2.0, 70.0, 4.0], calls)
    theirs = ScriptedSide("theirs", [0.001, 0.01, 2.0, 0.02, 1.0, 0.03, 2.0], calls)
    train_step.compare([TINY], rounds=3, ours=ours, theirs=theirs)
    output = capsys.readouterr().out
    train, _ = table(output)
    assert train["ours, images/s"] == "4.0 (2.0–8.0)"
    assert train["PyTorch, images/s"] == "4.0 (4.0–8.0)"
    assert train["ratio"] == "0.50 (0.50–2.00)"
    assert "train: 2.00 0.50 0.50" in output
    assert "ours: 5.0 GFLOP/s" in output
    gflops = float(train["GFLOP per image"]) * 4.0
    assert float(train["ours, GFLOP/s"]) == pytest.approx(gflops, abs=0.051)
    compiling, turn = ["ours", "theirs"], ["ours", "ours", "theirs", "theirs"]
    assert [name for name, what in calls if what == "train"] == compiling + 3 * turn


def test_networks_with_different_numbers_of_parameters_are_not_compared():
    ours, theirs = ScriptedSide("ours", [1.0], []), ScriptedSide("theirs", [1.0], [], parameters=8)
    with pytest.raises(SystemExit, match=r"\[7, 8\] parameters"):
        train_step.compare([TINY], rounds=1, ours=ours, theirs=theirs)


def test_worker_answers_each_request_with_one_line():
    calls, answers = [], io.StringIO()
    requests = [["version"], ["prepare", vars(TINY)], ["run", "train"], ["matmul", 8, False]]
    side = ScriptedSide("theirs", [0.25], calls)
    train_step.serve(side, [json.dumps(request) + "\n" for request in requests], answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == ["theirs", 7, 0.25, 1024 / 5e9]
    assert calls == [("theirs", TINY), ("theirs", "train")]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="this interpreter has PyTorch")
def test_interpreter_without_pytorch_is_named():
    process = train_step.TorchProcess(sys.executable, threads=1)
    try:
        with pytest.raises(SystemExit, match=r"--torch=.*can import torch"):
            process.version()
    finally:
        process.close()


def test_interpreter_that_does_not_exist_is_named():
    with pytest.raises(SystemExit, match="--torch=no/such/python cannot be started"):
        train_step.TorchProcess("no/such/python", threads=1)


def test_operations_are_those_of_the_literature():
    # 4.09e9 multiply-adds at 224 pixels with 1000 classes, some percent of them with padding.
    case = train_step.Case("resnet50", 1.0, image_size=224, batch=2, train_steps=1, predict_steps=1)
    predict = train_step.flops_per_image(case, "predict")
    assert 0.93 < predict / (2 * 4.09e9) < 1.01
    # Each convolution has two gradients, but nobody asks for that of the images.
    assert 2.8 < train_step.flops_per_image(case, "train") / predict < 3.05


def test_streaming_reports_file_memory_and_rate(tmp_path, capsys):
    result = streaming_memory.measure(tmp_path, images=100, size=8, batch_size=16, epochs=2)
    streaming_memory.print_header()
    streaming_memory.print_row(100, 8, result)
    [row] = table(capsys.readouterr().out)
    assert first_number(row["images/s"]) > 0
    assert result["file"] == np.load(tmp_path / "images.npy").size + 128
    assert 0 < result["start"] <= result["peak"]
    assert row["under 2 GB"] == ("yes" if result["peak"] < 2e9 else "NO")


def test_streaming_refuses_other_pixels_than_were_written(tmp_path, monkeypatch):
    write = streaming_memory.write_cache
    monkeypatch.setattr(streaming_memory, "write_cache", lambda *arguments: write(*arguments) + 1)
    with pytest.raises(RuntimeError, match="add up to"):
        streaming_memory.measure(tmp_path, images=32, size=8, batch_size=16, epochs=1)


def test_routing_is_compared_with_the_network_in_the_same_turn(capsys):
    sizes = {"width": 0.1, "image_size": 8, "batch": 4, "frozen_first": 8}
    effort = {"rounds": 2, "train_steps": 1, "predict_steps": 1, "predict_batch": 32}
    spottune_step.main([f"--{name}={value}" for name, value in {**sizes, **effort}.items()])
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines()] == [
        *("training", "standard", "whole", "no", "spottune"),
        *("prediction", "plain", "plain+policy", "both", "one") * 2,
    ]
    for reference in ("standard", "whole", "plain", "plain+policy"):
        assert f"1.00 × {reference} (1.00–1.00)" in output
    measured = spottune_step.Measured({"a": [2.0, 9.0], "b": [1.0, 3.0]})
    assert measured.ratios("a", "b") == [2.0, 3.0]


def test_augmentations_are_compared_with_a_step_without_any(capsys):
    sizes = ["--network=resnet26_policy", "--width=0.1", "--image_size=8", "--batch=4", "--rounds=2"]
    augmentations.main([*sizes, "--cpu_seconds", "--augmentations", "random_crop"])
    rows = table(capsys.readouterr().out)
    assert [row["augmentation"] for row in rows] == ["none", "random_crop"]
    assert rows[0]["against none"] == "1.000 (1.00–1.00)"
    assert all(first_number(row["step, ms"]) > 0 for row in rows)


@pytest.mark.parametrize("part", ["training", "autolr", "recall"])
def test_parts_of_the_accelerator_benchmark_run_at_tiny_size(part, capsys):
    measure, _ = accelerator.PARTS[part]
    rows = list(measure(accelerator.TINY, "none"))
    assert rows
    for row in rows:
        assert row.part == part
        assert all(np.isfinite(value) and value > 0 for value in row.values), row
        assert len(row.values) in (1, accelerator.TINY.rounds)


def test_a_part_that_fails_or_hangs_takes_no_other_with_it():
    row = accelerator.Row("part", "what", "s", [1.0, 2.0])
    say = f"print({json.dumps(json.dumps(row))}, flush=True)"
    programs = {
        "failing": f"{say}; raise SystemExit(3)",
        "hanging": f"{say}; import time; time.sleep(600)",
        "last": say,
    }
    told = []
    commands = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    shares = {"failing": 1.0, "hanging": 0.05, "last": 1.0}
    problems = accelerator.run_parts(commands, shares, budget_seconds=60, tell=told.append)
    assert told == [row] * 3
    assert problems.keys() == {"failing", "hanging"}
    assert problems["failing"] == "ended with status 3"
    assert problems["hanging"].startswith("stopped after its")


def test_copied_photographs_take_the_classes_in_turn(tmp_path):
    source = folder_epochs.write_photographs(tmp_path / "made", images=9, classes=3, size=(16, 12))
    assert folder_epochs.copy_photographs(source, tmp_path / "photos", limit=5) == 5
    found = sorted(path.parent.name for path in (tmp_path / "photos" / "train").rglob("*.jpg"))
    assert found == ["class0", "class0", "class1", "class1", "class2"]


def test_epochs_are_the_times_between_their_ends():
    epochs = folder_epochs._epochs([(10.0, 0.0), (14.0, 3.0), (16.0, 4.0)])
    assert epochs == [(4.0, 3.0), (2.0, 1.0)]
    line = folder_epochs._line("ours", [epochs, epochs], images=8)
    assert line == "| ours | 4.0 s | 2.0 | 3.0 s | 2.0 s | 4.0 | 1.0 s |"


def test_memory_of_a_step_is_measured():
    found = step_memory.measure("rematerialised", TINY, steps=2, threads=1)
    assert 0 < found["start"] <= found["peak"]
    assert found["cpu_seconds"] > 0
    assert found["temporary"] > 0


@pytest.mark.parametrize(("best", "start"), [(0, 0), (3, 0), (-4, 2)])
def test_a_walk_over_rates_ends_where_both_neighbours_are_worse(best, start):
    asked = []

    def scores_of(places):
        asked.extend(places)
        return [-abs(place - best) for place in places]

    found, tried = recipes.walk(start, scores_of)
    assert found == best
    assert {best - 1, best, best + 1} <= set(tried)
    assert len(asked) == len(set(asked))


def test_a_walk_goes_down_until_training_does_not_diverge():
    found, tried = recipes.walk(
        0, lambda places: [np.nan if place > -4 else float(place) for place in places]
    )
    assert found == -4
    assert min(tried) == -5


def test_a_recipe_is_compared_with_the_plain_one_by_the_larger_spread():
    def result(name, *tests):
        outcomes = [{"test": test} for test in tests]
        return {"name": name, "tried": {"0.1": 0.5}, "rate": 0.1, "outcomes": outcomes}

    lines = recipes.table(
        [result("plain", 0.5, 0.52), result("near", 0.49, 0.55), result("far", 0.3, 0.32)]
    ).splitlines()
    assert lines[2].endswith("|  |")
    assert lines[3].endswith("| tie |")
    assert lines[4].endswith("| 31.0 ± 1.4 | -20.0 |")


@pytest.mark.parametrize(
    ("today", "other", "expected"),
    [
        ([0.5, 0.9], [0.56, 0.89], "new"),  # mean regret 0.5 points against 3, the largest 1 against 6
        ([0.5, 0.9], [0.56, 0.83], "old"),  # a larger regret in the second cell than the old one's anywhere
        ([0.5, 0.9], [0.515, 0.9], "old"),  # a gain of less than a point on the mean
    ],
)
def test_a_default_changes_where_it_is_better_on_the_mean_and_never_further_behind(today, other, expected):
    cells = {name: {"old": [old], "new": [new]} for name, old, new in zip("ab", today, other, strict=True)}
    assert default_rates.chosen(default_rates.regrets(cells), "old") == expected
    rows = default_rates.table(cells).splitlines()
    assert rows[0] == "| optimiser, rate | a | b | mean regret | largest |"
    assert rows[2].startswith(f"| old | {100 * today[0]:.1f} | {100 * today[1]:.1f} | ")


def test_pieces_of_a_step_are_measured_by_name(capsys):
    tiny = ["--network=resnet26_policy", "--image_size=8", "--batch=4", "--rounds=1"]
    step_pieces.main([*tiny, "--pieces", "erasing", "TPGM", "lion"])
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == ["| erasing", "| TPGM", "| lion"]


@pytest.mark.parametrize("resident", [True, False])
def test_work_of_the_host_is_counted(resident):
    # A number of steps and their order go to the devices once where the images are there, the images with each step.
    counts = host_work.count(2, resident=resident, steps=2)
    pixels = 0 if resident else 2 * 16 * 4 * 4 * 3
    assert pixels < counts["bytes"] < pixels + 1000
    assert counts["transfers"] > 0
    assert 0 < counts["calls"] < counts["python calls"]


def test_images_are_decoded_once_or_on_demand(tmp_path):
    folder = folder_epochs.write_photographs(tmp_path / "photos", images=6, classes=2, size=(16, 12))
    on_disk = {"stream": 0, "make the cache": 1, "cache": 1}
    assert on_disk.keys() == set(decoding.WAYS)
    for way, expected in on_disk.items():
        figures = decoding.measure(way, str(folder), str(tmp_path / "cache"), count=8, size=8, batch=4)
        assert 0 < figures["rate"] < 1e6
        assert len(list((tmp_path / "cache").rglob("images.npy"))) == expected


def test_a_start_ends_with_its_first_step_and_leaves_no_checkpoint(tmp_path):
    sizes = [
        "--network=resnet26_policy",
        "--width=0.1",
        "--image_size=8",
        "--batch_size=8",
        "--pretrained=none",
    ]
    flags = ["--dataset=digits", "--images_per_class=8", f"--workdir={tmp_path / 'run'}", *sizes]
    began = time.time()
    ended = fork_server.run("benchmarks.start_up", "--started", began, "--", *flags)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert 0 < figures["seconds"] < time.time() - began
    assert figures["compiled"] + figures["loaded"] > 0
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_the_first_images_of_each_class_are_unpacked_from_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        for split, count in (("train", 40), ("test", 40), ("validation", 1)):
            for number in range(count):
                packed.writestr(f"{split}/cat/{number:02d}.jpg", f"{split} {number}")
    folder = fresh_head.unpack(tmp_path / "images.zip", tmp_path / "images")
    files = {
        split: sorted(path.name for path in (folder / split).rglob("*.jpg")) for split in ("train", "test")
    }
    assert files == {
        split: [f"{number:02d}.jpg" for number in range(count)]
        for split, count in (("train", 34), ("test", 37))
    }
    assert (folder / "test" / "cat" / "36.jpg").read_text() == "test 36"
    assert not (folder / "validation").exists()


def test_a_fresh_head_is_compared_seed_by_seed_and_at_the_rate_that_validation_prefers():
    plain, faster = [0.5, 0.52, 0.54], [0.53, 0.55, 0.57]
    # On validation the larger rate looks better, on the test it is worse by a point.
    results = {
        fresh_head.Cell("digits", arm, rate, seed): (validation, test - lost)
        for arm, tests in (("factor 1", plain), ("factor 3", faster))
        for rate, validation, lost in ((0.01, 0.6, 0.0), (0.03, 0.7, 0.01))
        for seed, test in enumerate(tests)
    }
    rows = table(fresh_head.table(results, ["digits"]))
    assert [row["arm"] for row in rows] == ["factor 1", "factor 3"]
    assert rows[1]["test at 0.01"] == "55.0 ± 2.0"
    assert rows[1]["difference"] == "3.0 ± 0.0"
    assert rows[1]["rate chosen"] == "0.03"
    assert rows[1]["test at it"] == "54.0 ± 2.0"
