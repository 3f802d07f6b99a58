"""Runs with ``--shard_parameters``: those of whole parameters, on any number of devices, read like any other."""

import dataclasses

import jax
import numpy as np
import pytest
from small_runs import small_run

import finetune_jax
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Pruned, UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.runs import finetune

FOUR = Replicas(tuple(jax.devices()[:4]))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    home = tmp_path_factory.mktemp("shares")
    return small_run(
        home,
        count=20,
        epochs=2,
        learning_rate=0.01,
        validation_fraction=0.3,
        sync_batch_norm=True,
        checkpoint_steps=2,
    )


def run(config, replicas, workdir, after_epoch=None, **changes):
    return finetune.run(dataclasses.replace(config, workdir=str(workdir), **changes), replicas, after_epoch)


def scores(workdir):
    return [
        {
            name: float(cell)
            for name, cell in row.items()
            if cell and name.startswith(("train_", "validation_"))
        }
        for row in RunDirectory(workdir).read_metrics()
    ]


def interrupt(row):
    raise Pruned("after the first epoch")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices_and_is_read_like_any_other(base, tmp_path):
    settings = {"clip_norm": 1.0, "ema_decay": 0.5}
    run(base, FOUR, tmp_path / "whole", **settings)
    with pytest.raises(Pruned):
        run(base, FOUR, tmp_path / "shares", interrupt, shard_parameters=True, **settings)
    run(base, Replicas(tuple(jax.devices()[:2])), tmp_path / "shares", shard_parameters=True, **settings)
    expected, found = scores(tmp_path / "whole"), scores(tmp_path / "shares")
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    outputs = [finetune_jax.load(tmp_path / name)(image) for name in ("shares", "whole")]
    np.testing.assert_allclose(*outputs, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "autolr", "threshold": 1.0, "max_trials": 2},
        {"method": "l2_sp", "swa_epochs": 1, "average_statistics": "kept"},
        {"protocol": "retrieval", "loss": "proxy_anchor", "optimizer": "adamw", "learning_rate": 1e-3},
    ],
    ids=["autolr", "l2_sp", "proxy_anchor"],
)
def test_methods_averages_and_tasks_do_not_see_the_shares(base, tmp_path, changes):
    run(base, FOUR, tmp_path / "whole", **changes)
    run(base, FOUR, tmp_path / "shares", shard_parameters=True, **changes)
    for ours, theirs in zip(scores(tmp_path / "shares"), scores(tmp_path / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
    passes = [RunDirectory(tmp_path / name).read_passes() for name in ("shares", "whole")]
    assert len(passes[0]) == len(passes[1])
    if changes.get("method") == "autolr":
        for ours, theirs in zip(*passes, strict=True):
            assert float(ours["variation/block_02"]) == pytest.approx(
                float(theirs["variation/block_02"]), rel=1e-3
            )
            assert float(ours["rate/block_02"]) == pytest.approx(float(theirs["rate/block_02"]), rel=1e-3)


def test_a_damaged_share_is_noticed(base, tmp_path):
    with pytest.raises(Pruned):
        run(base, FOUR, tmp_path, interrupt, shard_parameters=True, method="feature_extractor")
    folder = tmp_path / "checkpoints"
    step = checkpoints.latest_step(folder)
    meta = folder / str(step) / "meta" / "metadata"
    text = meta.read_text()
    assert '"shares": {"replicas": 4, "processes": 1}' in text
    meta.write_text(text.replace('"replicas": 4', '"replicas": 8'))
    with pytest.raises(UserError, match="its metadata is not what was saved"):
        checkpoints.read_meta(folder, step)


def test_one_device_holds_everything_and_says_so(base, tmp_path, capfd):
    one = Replicas((jax.devices()[0],))
    with pytest.raises(Pruned):
        run(base, one, tmp_path, interrupt, shard_parameters=True, method="feature_extractor")
    assert (
        "note: --shard_parameters: there is only one device, which holds everything\n"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "spottune"}, "not for --method=spottune"),
        ({"method": "lora"}, "not for --method=lora"),
        ({"optimizer": "muon"}, "not for --optimizer=muon, which looks at whole arrays"),
        ({"clip": "agc"}, "not for --clip=agc"),
        ({"method": "autolr", "keep_trials": True}, "contradicts --keep_trials"),
        ({"learning_rate": "find"}, "not for --learning_rate=find"),
    ],
)
def test_what_needs_whole_arrays_is_refused(changes, message):
    with pytest.raises(UserError, match=f"--shard_parameters (is )?{message}"):
        validate(FinetuneConfig(shard_parameters=True, **changes))
