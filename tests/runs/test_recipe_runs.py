"""Runs with warm-up, clipping, averages, mixed images and the head first: exact, resumed, alone or in lockstep."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small_runs import small_run

import finetune_jax
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.runs import finetune
from finetune_jax.training import averages, saving
from finetune_jax.training.placement import Placement
from finetune_jax.training.state import TrainState


@pytest.fixture(scope="module")
def one():
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Four classes of noise with a bright stripe each, and a small network from a file: an epoch takes no time."""
    home = tmp_path_factory.mktemp("recipe")
    return small_run(home, epochs=3, learning_rate=0.01, validation_fraction=0.3)


@pytest.fixture(scope="module")
def everything(base):
    return dataclasses.replace(
        base,
        optimizer="adamw",
        learning_rate=3e-3,
        decay_norms=False,
        warmup_epochs=0.5,
        schedule_by="step",
        min_rate_factor=0.1,
        head_epochs=1,
        clip_norm=1.0,
        gradient_norms=True,
        accumulate_steps=2,
        batch_size=8,
        mixup=0.2,
        cutmix=1.0,
        mixup_off_epoch=2,
        erasing=0.25,
        dihedral=True,
        loss="focal",
        label_smoothing=0.1,
        class_weights="balanced:0.5",
        ema_decay=0.9,
        checkpoint_steps=2,
    )


def run(config, replicas, workdir, **changes):
    config = dataclasses.replace(config, workdir=str(workdir), **changes)
    return finetune.run(config, replicas)


def numbers(summary):
    return {name: value for name, value in summary.items() if "seconds" not in name}


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def undisturbed(everything, one, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    return workdir, run(everything, one, workdir)


def test_rates_warm_up_and_the_head_comes_first(undisturbed):
    workdir, _ = undisturbed
    passes = RunDirectory(workdir).read_passes()
    assert [float(row["rate/block_01"]) > 0 for row in passes] == [False, True, True]
    assert [float(row["variation/block_01"]) > 0 for row in passes] == [False, True, True]
    assert all(float(row["rate/head"]) > 0 for row in passes)


def test_both_weights_are_measured_and_the_better_ones_are_kept_and_named(undisturbed, everything):
    workdir, summary = undisturbed
    rows = RunDirectory(workdir).read_metrics()
    for row in rows:
        both = float(row["validation_accuracy_weights"]), float(row["validation_accuracy_ema"])
        assert float(row["validation_accuracy"]) == max(both)
    best = rows[summary["best_epoch"] - 1]
    is_average = float(best["validation_accuracy_ema"]) > float(best["validation_accuracy_weights"])
    assert summary["weights"] == ("ema" if is_average else "weights")
    assert {f"train_gradient_norm/{name}" for name in ("stem", "block_01", "head")} <= set(best)


@pytest.mark.parametrize("saves", [1, 2, 4])
def test_a_run_that_breaks_off_goes_on_to_the_same_bits(
    everything, one, undisturbed, tmp_path, monkeypatch, saves
):
    """After that many checkpoints, of which there are one or two within every epoch."""
    left = [saves]
    save = saving.save_state

    def save_and_break(*arguments, **settings):
        save(*arguments, **settings)
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("killed")

    monkeypatch.setattr(saving, "save_state", save_and_break)
    with pytest.raises(RuntimeError, match="killed"):
        run(everything, one, tmp_path / "run")
    monkeypatch.undo()
    workdir, summary = undisturbed
    assert numbers(run(everything, one, tmp_path / "run")) == numbers(summary)
    assert_same(read_best(tmp_path / "run")[1], read_best(workdir)[1])
    latest = [checkpoints.latest_step(path / "checkpoints") for path in (workdir, tmp_path / "run")]
    assert latest[0] == latest[1]


def averaged_better(config, score, state, epoch, scores_of):
    """Both evaluations as they are, with the average taken for better."""
    scores = averages_scores(config, score, state, epoch, scores_of)
    name = averages.compared_score(config, score)
    return {**scores, f"{name}_weights": -1.0, name: scores[f"{name}_ema"]}


averages_scores = averages.scores_of_better


def test_prediction_takes_the_average_where_that_is_better(base, one, tmp_path, monkeypatch):
    monkeypatch.setattr(averages, "scores_of_better", averaged_better)
    summary = run(base, one, tmp_path, ema_decay=0.5, epochs=1)
    assert summary["weights"] == "ema"
    _, variables = read_best(tmp_path)
    step = checkpoints.best_step(tmp_path / "checkpoints")
    average = saving.restore_averages(tmp_path / "checkpoints", step, variables)
    assert_same(variables, average)
    raw = checkpoints.restore_variables(tmp_path / "checkpoints", step, variables)
    assert not np.array_equal(
        variables["params"]["head"]["classifier"]["kernel"], raw["params"]["head"]["classifier"]["kernel"]
    )
    assert finetune_jax.load(tmp_path)(np.zeros((8, 8, 3), np.uint8)).shape == (1, 4)


def test_weights_of_the_last_epochs_are_averaged(one):
    config = FinetuneConfig(epochs=4, swa_epochs=3)
    update = averages.updating(config, Placement(one))
    rng = np.random.default_rng(0)
    trees = [{"head": rng.normal(size=3).astype(np.float32)} for _ in range(4)]
    zeros = {"params": {"head": np.zeros(3, np.float32)}, "batch_stats": {"head": np.zeros(3, np.float32)}}
    state = TrainState(0, 0, {}, {}, {}, {}, {}, averages=zeros)
    for epoch, tree in enumerate(trees):
        state = update(one.replicate(state.replace(params=tree, batch_stats=tree)), epoch)
    for kind in ("params", "batch_stats"):
        expected = np.mean([tree["head"] for tree in trees[1:]], axis=0)
        np.testing.assert_allclose(state.averages[kind]["head"], expected, rtol=1e-6)


def test_an_average_of_epochs_has_scores_from_its_first_epoch_on_and_statistics_of_its_own(
    base, one, tmp_path
):
    config = dataclasses.replace(base, swa_epochs=2, augmentation="none", select_on="last")
    summary = run(config, one, tmp_path)
    rows = RunDirectory(tmp_path).read_metrics()
    assert [bool(row["validation_accuracy_swa"]) for row in rows] == [False, True, True]
    assert summary["weights"] in ("weights", "swa")

    # The mean of the statistics of batches, each from what a norm with momentum 0.9 makes of zeros.
    program, _ = finetune.prepare(config, one)
    network = program.method.network
    step = checkpoints.latest_step(tmp_path / "checkpoints")
    average = saving.restore_averages(tmp_path / "checkpoints", step, program.variables)
    zeros = jax.tree.map(np.zeros_like, average["batch_stats"])
    images = program.images.splits["train"].images
    of_batches = []
    for batch in program.images.order(config.epochs - 1):
        inputs = program.normalize(images[batch].astype(np.float32))
        _, updated = network.apply(
            {"params": average["params"], "batch_stats": zeros}, inputs, train=network.part_names
        )
        of_batches.append(jax.tree.map(lambda leaf: np.asarray(leaf) / (1 - config.norm_momentum), updated))
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *of_batches)
    for name, tree in expected.items():
        for a, b in zip(jax.tree.leaves(average["batch_stats"][name]), jax.tree.leaves(tree), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("optimizer", ["prodigy", "momo", "schedule_free_adamw"])
def test_optimisers_by_name_learn_and_their_result_is_used(base, one, tmp_path, optimizer):
    rate = 0.01 if optimizer == "schedule_free_adamw" else 1.0
    block_estimates = optimizer == "prodigy"
    summary = run(
        base, one, tmp_path, optimizer=optimizer, learning_rate=rate, block_estimates=block_estimates
    )
    losses = [float(row["train_loss"]) for row in RunDirectory(tmp_path).read_metrics()]
    assert losses[-1] < losses[0]
    assert summary.get("weights") == ("schedule_free" if optimizer == "schedule_free_adamw" else None)


def test_runs_in_lockstep_warm_up_and_average_each_for_itself(base, one, tmp_path):
    base = dataclasses.replace(base, ema_decay=0.9, epochs=2)
    configs = [
        dataclasses.replace(base, workdir=str(tmp_path / str(n)), warmup_epochs=warmup, learning_rate=rate)
        for n, (warmup, rate) in enumerate([(0.0, 0.02), (1.5, 0.01)])
    ]
    together = finetune.train_in_lockstep(configs, one, vectorize=True)
    for config, summary in zip(configs, together, strict=True):
        alone = run(config, one, config.workdir + "-alone")
        assert alone["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-3)
        rows = [
            RunDirectory(Path(path)).read_metrics() for path in (config.workdir, config.workdir + "-alone")
        ]
        for ours, theirs in zip(*rows, strict=True):
            assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-3)


def test_autolr_begins_its_trials_after_the_epochs_of_the_head(base, one, tmp_path):
    summary = run(base, one, tmp_path, method="autolr", head_epochs=1, ema_decay=0.5, epochs=2, max_trials=2)
    passes = RunDirectory(tmp_path).read_passes()
    assert float(passes[0]["variation/block_01"]) == 0
    assert float(passes[1]["variation/block_01"]) > 0
    assert {row["epoch"] for row in passes} == {"1", "2"}
    assert summary["epochs_trained"] == 2


def test_a_head_is_kept_where_the_classes_are_the_same(base, one, undisturbed, tmp_path):
    workdir, before = undisturbed
    kept = run(
        base,
        one,
        tmp_path / "kept",
        pretrained=str(workdir),
        network="",
        width=1.0,
        keep_head=True,
        learning_rate=1e-9,
        epochs=1,
    )
    assert kept["test_accuracy"] == pytest.approx(before["test_accuracy"], abs=0.05)
    first = RunDirectory(tmp_path / "kept").read_metrics()[0]
    fresh = run(
        base,
        one,
        tmp_path / "fresh",
        pretrained=str(workdir),
        network="",
        width=1.0,
        learning_rate=1e-9,
        epochs=1,
    )
    assert float(first["validation_loss"]) < float(
        RunDirectory(tmp_path / "fresh").read_metrics()[0]["validation_loss"]
    )
    assert fresh["test_accuracy"] <= kept["test_accuracy"]


def test_a_head_that_cannot_be_kept_is_refused_with_the_reason(base, one, undisturbed, tmp_path):
    with pytest.raises(UserError, match="does not say which classes"):
        run(base, one, tmp_path, keep_head=True)
    with pytest.raises(UserError, match=r"--keep_head: .* is of other classes than the data; they differ in"):
        run(
            base,
            one,
            tmp_path,
            keep_head=True,
            pretrained=str(undisturbed[0]),
            network="",
            width=1.0,
            dataset="digits",
            image_size=0,
        )


def test_weights_of_classes_come_from_a_file(base, one, tmp_path):
    table = tmp_path / "weights.csv"
    table.write_text("class,weight\n" + "".join(f"class{label},{label == 2:d}\n" for label in range(4)))
    run(base, one, tmp_path / "run", class_weights=str(table), epochs=2, learning_rate=0.05)
    predictions = finetune_jax.load(tmp_path / "run")(np.zeros((4, 8, 8, 3), np.uint8))
    assert (predictions.argmax(1) == 2).all()
    table.write_text("class,weight\nclass0,1\n")
    with pytest.raises(UserError, match="lacks a weight of class1, class2, class3"):
        run(base, one, tmp_path / "other", class_weights=str(table))


def test_flags_of_a_plain_run_record_that_nothing_of_this_is_used(base, one, tmp_path):
    run(base, one, tmp_path, epochs=1)
    recorded = json.loads((tmp_path / "flags.json").read_text())
    assert recorded["flags"]["ema_decay"] is None if "flags" in recorded else recorded["ema_decay"] is None
    step = checkpoints.latest_step(tmp_path / "checkpoints")
    assert not (tmp_path / "checkpoints" / str(step) / "averages").exists()
