"""What ``--help`` shows, and what answers flags and commands that are not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_jax.commands import program
from finetune_jax.commands.slips import unknown_command, unknown_flag
from finetune_jax.config import groups, methods
from finetune_jax.config.declaration import declared
from finetune_jax.config.invocation import LAUNCHER, as_started, command
from finetune_jax.config.settings import FinetuneConfig

ROOT = Path(__file__).parents[2]


def run(*words, cwd=ROOT, **environment):
    return subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def finetune(*words, **environment):
    return run(sys.executable, "-m", "experiments.finetune", *words, **environment)


def test_help_begins_with_usage_and_ten_settings_and_lists_every_flag_in_its_group():
    result = finetune("--help", COLUMNS="100")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Fine-tune a pretrained network."
    assert "usage: python -m experiments.finetune --FLAG=VALUE …" in lines
    assert max(map(len, lines)) <= 116
    important = [line for line in lines if line.startswith("  --")]
    assert [line.split("=")[0] for line in important] == [
        *("  --recipe", "  --print_flags"),
        *("  --dataset", "  --workdir", "  --pretrained", "  --method", "  --image_size"),
        *("  --epochs", "  --learning_rate", "  --batch_size", "  --augmentation", "  --seed"),
    ]
    listed = result.stdout[result.stdout.index("All settings by group") :]
    for group in groups.ALL:
        assert f"  {group.name} " in listed
    for name in declared(FinetuneConfig):
        assert f"--{name}" in listed
    assert "pdb" not in result.stdout
    assert "showprefixforinfo" not in result.stdout


def test_help_of_a_group_of_a_flag_and_of_everything():
    spottune = finetune("--help=spottune").stdout
    assert "--temperature=5.0" in spottune
    assert "--dataset" not in spottune
    assert finetune("--help", "spottune").stdout == spottune
    method = finetune("--help=method").stdout
    assert all(f"  {name} " in method for name in methods.BY_NAME)
    assert finetune("--help=cluster").stdout == finetune("--help=machine").stdout
    everything = finetune("--help=all").stdout
    assert all(f"  --{name}" in everything for name in declared(FinetuneConfig))
    assert "--flagfile" not in everything
    assert "--pdb" in finetune("--help=absl").stdout
    wrong = finetune("--help=everything")
    assert wrong.returncode == 1
    assert "--help=everything is neither a flag nor a group; choose command, data, images" in wrong.stderr


def test_a_reader_of_help_that_has_seen_enough_causes_no_traceback():
    # The pipe holds 64 kB: with stdout closed before the start, every write fails.
    script = f"{sys.executable} -m experiments.finetune --help=all | (exec 0<&-; sleep 1)"
    for pipeline in (script, f"{sys.executable} -m experiments.finetune --help | head -3"):
        result = run("bash", "-c", pipeline)
        assert result.stderr == ""
        assert result.returncode == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lr=0.1"], "--lr is called --learning_rate here"),
        (["--batch-size=3"], "--batch-size is spelled --batch_size"),
        (["--datset=x"], "there is no --datset; did you mean --dataset?"),
        (["--epochs"], "--epochs needs a value: --epochs=VALUE"),
        (["--epochs=three"], "--epochs=three: give a whole number"),
        (["--alpha=much"], "--alpha=much: give a number"),
        (["--nesterov=perhaps"], "--nesterov=perhaps: give true or false"),
        (["--method=autoLR"], "--method=autoLR: give one of standard, feature_extractor"),
        (["stray"], "stray is no flag; see python -m experiments.finetune --help"),
    ],
)
def test_a_slip_is_answered_with_one_sentence(words, sentence):
    result = finetune(*words)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {sentence}")
    assert len(result.stderr.splitlines()) == 1
    assert "FATAL" not in result.stderr


def test_a_flag_that_must_be_there_is_asked_for_with_an_example():
    result = run(sys.executable, "-m", "experiments.predict", "photo.jpg")
    assert result.returncode == 1
    assert result.stderr.startswith("error: --run is missing: Run directory")
    assert "e.g. python -m experiments.predict --run=runs/photos" in result.stderr


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        *[("bs", "batch_size"), ("batch", "batch_size"), ("imgsz", "image_size"), ("data", "dataset")],
        *[("output", "workdir"), ("wd", "weight_decay"), ("opt", "optimizer"), ("num-epochs", "epochs")],
        *[
            ("model", "network or --pretrained"),
            ("patience", "early_stopping"),
            ("smoothing", "label_smoothing"),
        ],
    ],
)
def test_names_of_other_tools_are_answered_with_ours(slip, meant):
    settings = declared(FinetuneConfig)
    aliases = {name: known.aliases for name, known in settings.items()}
    assert unknown_flag(slip, settings, aliases) == f"--{slip} is called --{meant} here"
    # A command that lacks the flag does not name it.
    assert "is called" not in unknown_flag(slip, ("top",), aliases)


def test_names_without_a_counterpart_are_answered_with_what_there_is_instead():
    assert "--method=feature_extractor" in unknown_flag("freeze", ("epochs",), {})
    assert "same --workdir goes on" in unknown_flag("resume", ("epochs",), {})
    assert unknown_flag("weights", ("run", "top"), {}) == "--weights is called --run here"
    assert unknown_flag("qqq", ("run", "top"), {}) == "there is no --qqq"


def test_a_command_that_is_not_there_is_answered_with_the_nearest():
    assert unknown_command("train", program.names()) == "there is no command train; did you mean finetune?"
    assert "did you mean grad_cam?" in unknown_command("grad-cam", program.names())
    assert "choose demo, check_data, finetune" in unknown_command("zzz", program.names())


def test_usage_has_one_line_per_command_that_says_what_it_does():
    lines = program.usage().splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == sorted(
        path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__"
    )
    assert all(line.endswith(".") and len(line) <= 100 for line in lines)
    assert [line.split()[0] for line in lines[:3]] == ["demo", "check_data", "finetune"]


def test_commands_are_spelled_as_the_reader_started_them(monkeypatch):
    text = 'see finetune-jax predict --help, pip install "finetune-jax[hub]"'
    assert (
        command("predict", environment={LAUNCHER: "../launch.sh"}, arguments=["x"]) == "../launch.sh predict"
    )
    program_file = ["/home/me/experiments/finetune.py"]
    assert command("predict", environment={}, arguments=program_file) == "python -m experiments.predict"
    assert command("predict", environment={}, arguments=["/usr/bin/finetune-jax"]) == "finetune-jax predict"
    assert command("predict", environment={}, arguments=[]) == "finetune-jax predict"
    monkeypatch.delenv(LAUNCHER, raising=False)
    assert as_started(text) == text
    monkeypatch.setenv(LAUNCHER, "./launch.sh")
    # An editable installation is done again from where it lies.
    assert as_started(text) == f'see ./launch.sh predict --help, {sys.executable} -m pip install -e ".[hub]"'
    monkeypatch.setenv(LAUNCHER, "../code/launch.sh")
    assert as_started(text).endswith('-m pip install -e "../code[hub]"')
