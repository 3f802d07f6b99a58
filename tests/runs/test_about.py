"""A run begins with what it is about and ends with the next commands."""

from pathlib import Path

import jax
import pytest

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.runs import about, finetune


def test_the_first_lines_say_network_pixels_classes_images_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = FinetuneConfig(
        dataset="digits",
        workdir=str(tmp_path / "run"),
        method="feature_extractor",
        epochs=1,
        test_fraction=0.8,
        batch_size=64,
    )
    finetune.run(config, Replicas(jax.devices()[:1]))
    lines = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("resnet26 ("))
    # 1,797 digits: 1,438 are tested; of the other 359, 36 validate.
    assert lines[first] == (
        "resnet26 (0.8 M parameters, weights resnet26_cifar10), images as 32 × 32, the whole image stretched; "
        "10 classes, 323 train / 36 validation / 1,438 test images of digits"
    )
    assert lines[first + 1] == f"--method=feature_extractor, 1 epoch of 5 steps; kept in {tmp_path / 'run'}"
    assert lines[first + 2] == "task: classification (by the labels)"
    assert first < next(number for number, line in enumerate(lines) if line.startswith("epoch 1/1"))


@pytest.mark.parametrize(
    ("architecture", "settings", "said"),
    [
        ("vit_small_patch14_dinov2", {}, True),
        ("vit_small_patch14_dinov2", {"learning_rate": 1e-4}, False),
        ("vit_small_patch14_dinov2", {"optimizer": "sgd"}, False),
        ("vit_small_patch14_dinov2", {"method": "lora"}, False),
        ("vit_small_patch14_dinov2", {"pretrained": "none"}, False),
        ("resnet50", {}, False),
    ],
)
def test_a_transformer_at_the_rate_of_convolutions_is_told_of_its_own(architecture, settings, said) -> None:
    config = FinetuneConfig(
        **{"pretrained": "weights.npz", "optimizer": "adamw", "learning_rate": 1e-3} | settings
    )
    lines = about.note_on_rate(architecture, config)
    assert bool(lines) == said
    assert all("--learning_rate=0.00003" in line for line in lines)


def test_a_long_line_is_wrapped_for_a_terminal_and_paths_stay_whole() -> None:
    path = "/a/" + "long-" * 30 + "path"
    lines = about.wrapped(f"--method=standard, 20 epochs of {'many ' * 30}steps; kept in {path}").splitlines()
    assert all(len(line) <= 100 for line in lines[:-1])
    assert lines[0].startswith("--method=standard")
    assert [line[:2] for line in lines[1:]] == ["  "] * (len(lines) - 1)
    assert lines[-1] == f"  {path}"


@pytest.mark.parametrize(
    ("protocol", "flag"), [("classification", "predict --run=r PHOTO"), ("retrieval", "--embeddings=")]
)
def test_the_last_lines_name_the_report_and_the_next_command(
    protocol: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r").mkdir()
    (without,) = about.last_lines(Path("r"), protocol)  # --noreport
    (tmp_path / "r" / "report.html").touch()
    report, following = about.last_lines(Path("r"), protocol)
    assert report == "report: r/report.html"
    assert flag in following == without
