"""Runs whose rates are found before training: the same as with these rates as flags."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import run_on_photos, small_run

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune, rate_search
from finetune_jax.training import loop
from finetune_jax.training.methods.auto import Auto
from finetune_jax.training.methods.method import RateChoice

ONE = Replicas((jax.devices()[0],))
SEARCHES = {
    "find": {"learning_rate": "find"},
    "find_blocks": {"learning_rate": "find_blocks"},
    "auto": {"method": "auto"},
    "auto_from_probe": {"method": "auto", "learning_rate": 3.0},  # far too fast for the fresh head
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    return run_on_photos(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module", params=SEARCHES)
def searched(
    request: pytest.FixtureRequest, base: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneConfig, dict[str, Any]]:
    workdir = str(tmp_path_factory.mktemp(request.param) / "run")
    config = dataclasses.replace(base, workdir=workdir, **SEARCHES[request.param])
    return config, finetune.run(config, ONE)


def weights(workdir: str | Path) -> list[np.ndarray]:
    return jax.tree.leaves(read_best(Path(workdir))[1])


def rows(workdir: str | Path) -> list[dict[str, str]]:
    found = RunDirectory(Path(workdir)).read_metrics()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def same(one: str | Path, other: str | Path) -> bool:
    pairs = zip(weights(one), weights(other), strict=True)
    return rows(one) == rows(other) and all(np.array_equal(a, b) for a, b in pairs)


def test_a_searched_run_is_the_standard_run_with_the_found_rates(searched, tmp_path):
    config, summary = searched
    found = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in summary["search"]["settings"].items()
    }
    assert found["learning_rate"] == summary["learning_rate"]
    typed = dataclasses.replace(config, method="standard", workdir=str(tmp_path / "typed"), **found)
    finetune.run(typed, ONE)
    assert same(config.workdir, typed.workdir)


def test_the_search_says_what_it_tried_and_what_that_cost(searched):
    config, summary = searched
    search = summary["search"]
    recorded = json.loads((Path(config.workdir) / "flags.json").read_text())["resolved"]
    assert recorded["search"] == search
    assert any(recorded["reason"] in note for note in summary["notes"])
    steps = sum(rehearsal["steps"] for rehearsal in search["rehearsals"])
    if search["settings"].get("from_probe"):
        assert config.learning_rate == 3.0
        assert search["images_trained"] == 12 * (steps + 8)  # the head alone before
        # A quarter of 46 training images; the start, the head, and for the probe all 46.
        assert search["images_judged"] == 11 * (len(search["rehearsals"]) + 2) + 46
        rates = [set(tried["rates"].values()) for tried in search["rehearsals"]]
        assert all(len(of_parts) == 1 for of_parts in rates)
        assert rates[0].pop() == pytest.approx(3 / 10**1.5)
        assert "from a linear probe" in recorded["reason"]
    elif config.method == "auto":
        assert config.learning_rate != 3.0
        assert search["images_trained"] == 12 * (steps + 8)  # the head alone before
        # A quarter of 46 training images, and twice to see that the head has learnt.
        assert search["images_judged"] == 11 * (len(search["rehearsals"]) + 2)
        found = search["settings"]
        assert found["head_learning_rate"] == pytest.approx(10 * min(found["learning_rate"], 0.01))
        assert all(set(tried["rates"]) >= {"stem", "head"} for tried in search["rehearsals"])
    elif config.learning_rate == "find":
        assert 12 <= search["images_trained"] <= 1200
    else:
        factors = [text.partition("=")[0] for text in search["settings"]["rate_factors"]]
        assert factors == ["stem", "block_01", "block_02", "block_03"]
        assert 12 * 20 < search["images_trained"] <= 12 * (100 + 20 + 4 * 40)


def test_a_run_that_was_cut_short_goes_on_without_searching_again(searched, tmp_path, monkeypatch, capsys):
    config, _ = searched
    again = dataclasses.replace(config, workdir=str(tmp_path / "again"))
    with monkeypatch.context() as patch:

        def cut(*arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(loop, "fit", cut)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(again, ONE)
    said = capsys.readouterr().err
    assert said.count("images as 8 × 8") == 1
    if config.method == "auto":
        assert said.index("images as 8 × 8") < said.index("trial 1: 8 steps") < said.index("--method=auto: ")

    def refuse(*arguments: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(rate_search, "rehearsals_of", refuse)
    finetune.run(again, ONE)
    assert same(config.workdir, again.workdir)


@pytest.mark.parametrize("search", SEARCHES)
def test_two_devices_find_the_same(search, base, tmp_path):
    # With statistics of the whole batch, as otherwise the runs themselves are not the same.
    settings = {**SEARCHES[search], "sync_batch_norm": True, "epochs": 1}
    found = []
    for devices in (1, 2):
        config = dataclasses.replace(base, workdir=str(tmp_path / str(devices)), **settings)
        _, resolved = finetune.prepare(config, Replicas(tuple(jax.devices()[:devices])))
        found.append(resolved)
    assert found[0].config.learning_rate == pytest.approx(found[1].config.learning_rate, rel=0.05)
    losses = [[tried["loss"] for tried in settings.search["rehearsals"]] for settings in found]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2, atol=1e-2)  # eight steps amplify rounding


@pytest.mark.parametrize("method", ["autolr", "l2_sp", "lora"])
def test_the_range_test_is_there_for_methods_with_rates_or_networks_of_their_own(method, base, tmp_path):
    few = {"lora_rank": 2} if method == "lora" else {}
    config = dataclasses.replace(
        base, method=method, learning_rate="find", workdir=str(tmp_path / "run"), **few
    )
    _, settings = finetune.prepare(config, ONE)
    assert 1e-5 <= settings.config.learning_rate <= 10 / 3
    assert settings.search["settings"] == {"learning_rate": settings.config.learning_rate}
    assert settings.reason.startswith(f"{settings.config.learning_rate:g}, 1/3 of the rate")


def test_a_search_keeps_the_proportions_that_the_flags_give(base, tmp_path):
    config = dataclasses.replace(
        base, **SEARCHES["auto"], layer_decay=0.5, epochs=1, workdir=str(tmp_path / "run")
    )
    _, settings = finetune.prepare(config, ONE)
    for tried in settings.search["rehearsals"]:
        rates = tried["rates"]
        assert rates["block_02"] / rates["block_01"] == pytest.approx(2.0)
        assert rates["head"] == pytest.approx(0.1)


def test_runs_that_search_are_not_trained_together(searched, base, tmp_path):
    config, _ = searched
    others = [
        dataclasses.replace(config, workdir=str(tmp_path / "a")),
        dataclasses.replace(base, workdir=str(tmp_path / "b")),
    ]
    with pytest.raises(UserError, match="chooses one rate, which has no others to be trained together with"):
        finetune.train_in_lockstep(others, ONE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "auto", "learning_rate": "find"}, "--learning_rate=find contradicts --method=auto"),
        ({"method": "auto", "learning_rate": "auto"}, "--learning_rate=auto contradicts --method=auto"),
        ({"method": "auto", "head_learning_rate": 0.1}, "--head_learning_rate contradicts --method=auto"),
        ({"method": "auto", "optimizer": "prodigy"}, "--method=auto contradicts --optimizer=prodigy"),
        ({"method": "auto_rgn", "optimizer": "adamw"}, "--optimizer=adamw contradicts --method=auto_rgn"),
        ({"method": "auto_snr", "layer_decay": 0.8}, "--layer_decay contradicts --method=auto_snr"),
        ({"method": "auto_rgn", "layer_decay": 0.8}, "--layer_decay contradicts --method=auto_rgn"),
        (
            {"learning_rate": "find_blocks", "method": "autolr"},
            "--learning_rate=find_blocks contradicts --method=autolr",
        ),
        (
            {"learning_rate": "find_blocks", "layer_decay": 0.8},
            "--layer_decay contradicts --learning_rate=find_blocks",
        ),
        (
            {"learning_rate": "find_blocks", "rate_factors": ("head=2",)},
            "--rate_factors contradicts --learning_rate=find_blocks",
        ),
        ({"learning_rate": "find", "optimizer": "dog"}, "--learning_rate=find contradicts --optimizer=dog"),
        ({"learning_rate": "find", "head_epochs": 1}, "--head_epochs contradicts --learning_rate=find"),
    ],
)
def test_what_a_search_cannot_go_with_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        validate(FinetuneConfig(**settings))


def test_auto_rgn_gives_each_block_the_share_of_its_relative_gradient_of_the_epoch_before(base, tmp_path):
    config = dataclasses.replace(
        base,
        method="auto_rgn",
        learning_rate=0.05,
        epochs=3,
        schedule="constant",
        workdir=str(tmp_path / "run"),
    )
    finetune.run(config, ONE)
    passes = RunDirectory(tmp_path / "run").read_passes()
    blocks = [name.removeprefix("rate/") for name in passes[0] if name.startswith("rate/block_")]
    assert [float(passes[0][f"rate/{name}"]) for name in blocks] == pytest.approx([0.05] * len(blocks))
    for before, after in itertools.pairwise(passes):
        gradients = [float(before[f"variation/{name}"]) / float(before[f"rate/{name}"]) for name in blocks]
        expected = [0.05 * value / max(gradients) for value in gradients]
        assert [float(after[f"rate/{name}"]) for name in blocks] == pytest.approx(expected, rel=1e-4)
        assert float(after["rate/head"]) == pytest.approx(0.05)
        assert float(after["rate/stem"]) == pytest.approx(expected[0], rel=1e-4)

    def cut(row: Any) -> None:
        raise KeyboardInterrupt

    again = dataclasses.replace(config, workdir=str(tmp_path / "again"))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(again, ONE, after_epoch=cut)
    finetune.run(again, ONE)
    assert same(config.workdir, again.workdir)


def test_auto_rgn_over_tensors_gives_each_kernel_its_share_and_norms_the_largest_of_their_block(
    base, tmp_path
):
    config = dataclasses.replace(
        base,
        method="auto_rgn",
        rgn_over="tensors",
        learning_rate=0.05,
        momentum=0.0,
        weight_decay=0.0,
        epochs=3,
        schedule="constant",
        workdir=str(tmp_path / "run"),
    )
    finetune.run(config, ONE)
    passes = RunDirectory(tmp_path / "run").read_passes()
    kernels = [name.removeprefix("variation/") for name in passes[0] if name.startswith("variation/")]
    assert len(kernels) > 3
    assert all(name.startswith("block_0") and name.endswith("/kernel") for name in kernels)
    for before, after in itertools.pairwise(passes):
        gradients = {
            name: float(before[f"variation/{name}"]) / float(before[f"rate/{name}"]) for name in kernels
        }
        for name in kernels:
            expected = 0.05 * gradients[name] / max(gradients.values())
            assert float(after[f"rate/{name}"]) == pytest.approx(expected, rel=1e-4)
        of_first = [float(after[f"rate/{name}"]) for name in kernels if name.startswith("block_01/")]
        assert float(after["rate/block_01"]) == float(after["rate/stem"]) == max(of_first)

    def cut(row: Any) -> None:
        raise KeyboardInterrupt

    again = dataclasses.replace(config, workdir=str(tmp_path / "again"))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(again, ONE, after_epoch=cut)
    finetune.run(again, ONE)
    assert same(config.workdir, again.workdir)


def test_auto_snr_holds_blocks_still_whose_gradients_were_noise_after_the_epoch_before(base, tmp_path):
    config = dataclasses.replace(
        base,
        method="auto_snr",
        learning_rate=0.05,
        epochs=3,
        schedule="constant",
        workdir=str(tmp_path / "run"),
    )
    finetune.run(config, ONE)
    passes = RunDirectory(tmp_path / "run").read_passes()
    blocks = [name.removeprefix("signal/") for name in passes[0] if name.startswith("signal/")]
    assert blocks == ["block_01", "block_02", "block_03"]
    assert [float(passes[0][f"rate/{name}"]) for name in blocks] == [0.05] * 3
    for before, after in itertools.pairwise(passes):
        signals = [float(before[f"signal/{name}"]) for name in blocks]
        expected = [0.05 if signal >= 0.25 * max(signals) else 0.0 for signal in signals]
        assert [float(after[f"rate/{name}"]) for name in blocks] == pytest.approx(expected)
        moved = [float(after[f"variation/{name}"]) > 0 for name in blocks]
        assert moved == [rate > 0 for rate in expected]
        assert float(after["rate/head"]) == pytest.approx(0.05)

    def cut(row: Any) -> None:
        raise KeyboardInterrupt

    again = dataclasses.replace(config, workdir=str(tmp_path / "again"))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(again, ONE, after_epoch=cut)
    finetune.run(again, ONE)
    assert same(config.workdir, again.workdir)


def test_what_a_search_warns_of_is_printed_once_and_stays_with_the_run(base, tmp_path, monkeypatch, capsys):
    rates = {"learning_rate": 0.01, "head_learning_rate": 0.1}
    choice = RateChoice(rates, "0.01", ("The head learnt nothing.",))
    monkeypatch.setattr(Auto, "find", lambda method, config, rehearsals: choice)
    config = dataclasses.replace(base, method="auto", epochs=1, workdir=str(tmp_path / "run"))

    def cut(row: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(config, ONE, after_epoch=cut)
    assert capsys.readouterr().err.splitlines().count("warning: The head learnt nothing.") == 1
    summary = finetune.run(config, ONE)
    assert summary["notes"].count("The head learnt nothing.") == 1
    assert summary["search"]["notes"] == ["The head learnt nothing."]
    assert "The head learnt nothing." in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("protocol", ["classification", "retrieval"])
def test_images_left_out_are_judged_by_the_centre_that_evaluation_sees(tmp_path, protocol):
    config = small_run(tmp_path, augmentation="random_crop", protocol=protocol, epochs=1)
    program, chosen = finetune.prepare(config, ONE)
    rehearsals = rate_search.rehearsals_of(program, chosen)
    stored = np.asarray(program.images.splits["train"].images)[rehearsals.held_out]
    size = program.images.image_size
    edge = (stored.shape[1] - size) // 2
    assert edge > 0
    seen = stored[:, edge : edge + size, edge : edge + size].astype(np.float32)
    network = program.method.measured
    logits = np.asarray(network.apply(program.variables, program.normalize(seen)), np.float64)
    labels = program.images.splits["train"].labels[rehearsals.held_out]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(chances[np.arange(len(labels)), labels]).mean()
    assert rehearsals.judge() == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_never_finite_is_said_before_anything_is_written(base, tmp_path):
    wild = dataclasses.replace(
        base, method="auto", learning_rate=1e30, workdir=str(tmp_path / "run"), epochs=1
    )
    with pytest.raises(
        UserError, match=r"--method=auto: training diverged at all rates from 3\.16228e\+27 to 3\.16228e\+28;"
    ):
        finetune.run(wild, ONE)
    assert not (tmp_path / "run").exists()
