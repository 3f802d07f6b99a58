"""The binaries as a user meets them: help, errors, exit status."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import numpy as np
import pytest
from child_processes import FAST_COMPILATION, SECONDS
from photos import COLOURS, write_photos

ROOT = Path(__file__).parents[2]
BINARIES = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem not in ("__init__", "command_line")
)


def run(name, *arguments, timeout=SECONDS):
    environment = {key: value for key, value in os.environ.items() if key != "NPROC"}
    environment["XLA_FLAGS"] = FAST_COMPILATION
    return fork_server.run(
        f"experiments.{name}", *arguments, environment=environment, cwd=ROOT, timeout=timeout
    )


def fails_with(result, *parts):
    """One sentence on standard error, no traceback, status 1 (2 from absl for flags it does not know)."""
    assert result.returncode in (1, 2), result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    return True


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos") / "photos", per_class=12)


@pytest.mark.parametrize("name", BINARIES)
def test_help_answers_at_once_and_without_jax(name):
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.monotonic() - start
    assert "--" in result.stdout
    assert seconds < 2.0
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import experiments.{name}, sys; print([m for m in ('jax', 'flax', 'tensorflow_datasets') "
            "if m in sys.modules])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "[]"


def test_importing_the_package_loads_no_jax_and_its_modules_come_on_demand():
    code = (
        "import sys, finetune_jax; assert 'jax' not in sys.modules; "
        "print(finetune_jax.retrieval.recall_at_k.__name__, finetune_jax.load.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["recall_at_k", "load"]


def test_training_then_evaluating_then_predicting_from_the_command_line(photos, tmp_path):
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    shared = [f"--cache_dir={cache}", "--compilation_cache="]
    result = run(
        "finetune",
        f"--dataset=folder:{photos}",
        f"--workdir={workdir}",
        "--image_size=16",
        "--epochs=1",
        "--batch_size=8",
        "--learning_rate=0.02",
        "--method=feature_extractor",
        *shared,
    )
    assert result.returncode == 0, result.stderr
    assert "test accuracy" in result.stdout
    assert "epoch 1/1" in result.stderr

    result = run("evaluate", f"--run={workdir}", *shared)
    assert result.returncode == 0, result.stderr
    assert "balanced accuracy" in result.stdout
    saved = json.loads((workdir / "evaluation-classification-test.json").read_text())
    assert saved["images"] == json.loads((workdir / "summary.json").read_text())["images"]["test"] > 0
    assert set(saved["recall_per_class"]) == set(COLOURS)

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    result = run("predict", f"--run={workdir}", "--top=2", photos / "sky", broken, "--compilation_cache=")
    assert result.returncode == 1
    assert f"cannot read the image {broken}" in result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 12
    assert all(
        line.startswith(f"{photos}/sky/") and len(line.split("\t")[1].split("  ")) == 2 for line in lines
    )

    features = tmp_path / "features.npz"
    result = run("predict", f"--run={workdir}", f"--embeddings={features}", photos, "--compilation_cache=")
    assert result.returncode == 0, result.stderr
    with np.load(features) as file:
        assert len(file["embeddings"]) == len(file["paths"]) == 36


def test_check_data_lists_what_is_wrong_and_says_so_in_its_status(photos, tmp_path):
    assert run("check_data", f"--dataset=folder:{photos}", f"--cache_dir={tmp_path}").returncode == 0
    bad = write_photos(tmp_path / "bad", per_class=10)
    (bad / "leaf" / "zz.png").write_bytes(b"not a picture")
    (bad / "leaf" / "copy.png").write_bytes((bad / "sky" / "00.png").read_bytes())
    result = run("check_data", f"--dataset=folder:{bad}", f"--cache_dir={tmp_path}")
    assert result.returncode == 1
    assert "zz.png" in result.stdout
    assert "copy.png" in result.stdout
    result = run(
        "finetune", f"--dataset=folder:{bad}", f"--cache_dir={tmp_path}", f"--workdir={tmp_path}/run"
    )
    assert fails_with(result, "zz.png", "--skip_unreadable", "check_data")


def test_unreadable_images_are_left_out_on_request_with_a_counted_warning(tmp_path):
    bad = write_photos(tmp_path / "bad", per_class=10)
    (bad / "leaf" / "zz.png").write_bytes(b"not a picture")
    result = run(
        "finetune",
        f"--dataset=folder:{bad}",
        f"--cache_dir={tmp_path}/cache",
        f"--workdir={tmp_path}/run",
        "--skip_unreadable",
        "--image_size=8",
        "--batch_size=8",
        "--epochs=1",
        "--method=feature_extractor",
        "--compilation_cache=",
    )
    assert result.returncode == 0, result.stderr
    assert "1 unreadable image" in result.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("finetune", ["--epoch=3"], ["--epoch", "--epochs"]),
        ("finetune", ["--method=magic"], ["--method=magic"]),
        ("finetune", ["--epochs=three"], ["epochs"]),
        ("finetune", ["--drop_epochs=3"], ["--drop_epochs=3 is for --schedule=step"]),
        (
            "finetune",
            ["--learning_rate=0.01", "--effective_learning_rate=0.1"],
            ["--learning_rate and --effective_learning_rate say the same"],
        ),
        ("finetune", ["--norm_momentum=law"], ["norm_momentum", "a number or rule"]),
        ("autolr", ["--effective_learning_rate=1"], ["--effective_learning_rate is not for this study"]),
        ("finetune", ["--alpha=3"], ["--alpha=3.0 is for --method=autolr"]),
        ("finetune", ["--method=autolr", "--threshold=2"], ["--threshold=2.0 is out of range"]),
        ("finetune", ["--drop_epochs=2,x", "--schedule=step"], ["--drop_epochs=2,x"]),
        ("finetune", ["stray"], ["stray is no flag"]),
        ("finetune", ["--process_count=2", "--workdir=x"], ["--coordinator"]),
        ("finetune", ["--dataset=folder:/nowhere/at/all", "--workdir={tmp}/run"], ["/nowhere/at/all"]),
        ("finetune", ["--dataset=photos", "--workdir={tmp}/run"], ["--dataset=photos"]),
        ("finetune", ["--pretrained={tmp}/missing.pth", "--workdir={tmp}/run"], ["missing.pth"]),
        ("finetune", ["--batch_size=30", "--virtual_devices=4", "--workdir={tmp}/run"], ["--batch_size=30"]),
        ("evaluate", ["--run={tmp}"], ["{tmp} is no run directory"]),
        ("evaluate", [], ["run"]),
        ("predict", ["--run={tmp}"], ["name images or folders"]),
        ("predict", ["--run={tmp}", "x.jpg"], ["is no run directory"]),
        ("check_data", ["--dataset=folder:{tmp}"], ["class folders"]),
        ("autolr", ["--learning_rate=1"], ["--learning_rate is not for this study"]),
        ("autolr", ["--rates=0.1,fast"], ["--rates=0.1,fast"]),
        ("autolr", ["--rates=0.1,0.1"], ["none twice"]),
        ("prune", ["--prune_depth=1"], ["--prune_depth is not for this search"]),
        ("hpo", ["--learning_rate=1"], ["--learning_rate is not for this study", "--learning_rates"]),
        ("hpo", ["--momentum=0.5"], ["--momentum is not for this study", "--momenta"]),
        ("hpo", ["--momenta=0.9,1"], ["--momenta=0.9,1 is out of range"]),
        ("hpo", ["--learning_rates=-0.1"], ["--learning_rates=-0.1", "none negative"]),
        ("hpo", ["--weight_decays="], ["--weight_decays="]),
        ("hpo", ["--trials=3"], ["--trials is for --search=tpe"]),
        ("hpo", ["--coordinator=auto"], ["--coordinator is not for this study"]),
        (
            "hpo",
            ["--storage=magic://host", "--workdir={tmp}/run"],
            ["--storage=magic://host cannot be opened"],
        ),
        ("alpha_beta", ["--alpha=3"], ["--alpha is not for this map", "--alphas"]),
        ("alpha_beta", ["--betas=0"], ["--alphas and --betas must be above 0"]),
        ("reproduce", ["--table=autolr/9"], ["--table=autolr/9 is not known", "autolr/2"]),
        ("reproduce", ["--table=autolr/2"], ["tfds:cars196", "resnet50"]),
        ("decathlon", [], ["--pretrained is empty", "resnet26_cifar10"]),
        (
            "decathlon",
            ["--datasets=dtd,mnist", "--pretrained=x.npz"],
            ["--datasets=dtd,mnist", "vgg-flowers"],
        ),
        ("finetune", ["--learning_rate=fast"], ["learning_rate", "a number or auto"]),
        ("similarity", [], ["--targets is empty"]),
        ("similarity", ["--save_source={tmp}/no/x.npz"], ["--save_source={tmp}/no/x.npz cannot be written"]),
        ("similarity", ["--targets=digits", "--pretrained=none"], ["--pretrained=none has no features"]),
        (
            "reproduce",
            ["--table=hyperparameters/3"],
            ["FGVC-Aircraft", "tfds:stanford_dogs", "Places-365 need such"],
        ),
        (
            "reproduce",
            ["--table=hyperparameters/2", "--dataset=digits", "--column=Cats"],
            ["--column=Cats is not in the table", "Dogs"],
        ),
        (
            "reproduce",
            ["--table=hyperparameters/2", "--dataset=digits", "--rows=9"],
            ["--rows=9", "rows 1 to 8"],
        ),
        ("gamma", ["--run={tmp}"], ["is no run directory"]),
        ("grad_cam", ["--runs={tmp}"], ["name images or folders"]),
        ("grad_cam", ["--runs={tmp},{tmp}", "--blocks=block_01", "x.jpg"], ["single run"]),
    ],
)
def test_bad_input_gets_one_sentence(name, arguments, parts, tmp_path):
    fill = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    result = run(name, *fill)
    assert fails_with(result, *(part.replace("{tmp}", str(tmp_path)) for part in parts))
    assert len(result.stderr.strip().splitlines()) <= 3


def test_a_reader_that_has_seen_enough_causes_no_traceback(photos, tmp_path):
    command = (
        f"{sys.executable} -m experiments.check_data --dataset=folder:{photos} --cache_dir={tmp_path} | true"
    )
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


def test_flags_can_come_from_a_file(tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text("--drop_epochs=3\n")
    assert fails_with(run("finetune", f"--flagfile={flagfile}"), "--drop_epochs=3 is for --schedule=step")


@pytest.mark.parametrize("name", BINARIES)
def test_every_binary_says_in_its_help_how_to_call_it(name):
    text = ast.get_docstring(ast.parse((ROOT / "experiments" / f"{name}.py").read_text()))
    assert f"experiments.{name}" in text or f"./launch.sh {name}" in text
