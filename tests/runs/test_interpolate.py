"""Networks between others and soups of runs: the right weights, statistics of their own, the best one kept."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_runs import small_run

import finetune_jax
from finetune_jax import data as datasets
from finetune_jax.commands import interpolate as command
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models.card import read_best
from finetune_jax.models.normalization import normalizer
from finetune_jax.runs import evaluate, finetune, interpolate
from finetune_jax.runs import start as run_start
from finetune_jax.runs.predict import Predictor
from finetune_jax.training import norm_statistics


@pytest.fixture(scope="module")
def one():
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one):
    """The config of two runs that differ in their seed, and their directories."""
    home = tmp_path_factory.mktemp("interpolate")
    config = small_run(home, epochs=3, learning_rate=0.02, validation_fraction=0.3)
    runs = [home / "first", home / "second"]
    for seed, workdir in enumerate(runs):
        finetune.run(dataclasses.replace(config, seed=seed, workdir=str(workdir)), one)
    return config, runs


def training_images(config, card):
    source = datasets.load_source(config, silent=True)
    return datasets.materialise_split(
        config, source.splits["train"], card.preprocessing, silent=True, title=""
    )


def test_statistics_are_means_over_batches_of_training_images(trained, one):
    config, runs = trained
    card, variables = read_best(runs[0])
    arrays = training_images(config, card)
    network, normalize = card.network(), normalizer(card.mean, card.std)
    feed = create_feed(arrays, one, resident=True, steps_per_dispatch=1)
    estimate = norm_statistics.compile_estimate(
        network, normalize, feed, len(arrays.labels), one, batch_size=16
    )
    ours = estimate(variables)
    assert ours["params"] is variables["params"]
    momentum, expected = 0.9, []
    for start in range(0, len(arrays.labels) // 16 * 16, 16):
        images = normalize(arrays.images[start : start + 16])
        _, updated = network.apply(variables, images, train=network.part_names)
        expected.append(
            jax.tree.map(
                lambda new, old: (new - momentum * old) / (1 - momentum), updated, variables["batch_stats"]
            )
        )
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *expected)
    for a, b in zip(jax.tree.leaves(ours["batch_stats"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_statistics_do_not_depend_on_the_number_of_devices(trained, one):
    config, runs = trained
    card, variables = read_best(runs[0])
    arrays = training_images(config, card)
    ends = []
    for devices in (1, 4):
        replicas = Replicas(tuple(jax.devices()[:devices]))
        feed = create_feed(arrays, replicas, resident=True, steps_per_dispatch=1)
        network = dataclasses.replace(card, bfloat16=False).network(norm_axis="batch")
        estimate = norm_statistics.compile_estimate(
            network, normalizer(card.mean, card.std), feed, len(arrays.labels), replicas, batch_size=16
        )
        ends.append(estimate(variables))
    for a, b in zip(*(jax.tree.leaves(end["batch_stats"]) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_the_best_network_between_start_and_end_is_kept(trained, one, tmp_path):
    config, runs = trained
    curve = interpolate.interpolate(runs[0], (0.0, 0.5, 1.0), one, output=tmp_path / "between")
    validation = curve.scores["validation"]
    assert validation[curve.chosen] == max(validation)
    assert validation[2] > validation[0]
    card, kept = read_best(tmp_path / "between")
    _, end = read_best(runs[0])
    alpha = curve.alphas[curve.chosen]
    start = run_start.load_origin(config).variables["params"]
    for name in ("stem", "block_02"):
        for a, b, c in zip(
            *(jax.tree.leaves(tree[name]) for tree in (kept["params"], start, end["params"])), strict=True
        ):
            np.testing.assert_allclose(
                a, (1 - alpha) * np.asarray(b) + alpha * np.asarray(c), rtol=1e-5, atol=1e-6
            )
    for a, b in zip(*(jax.tree.leaves(tree["params"]["head"]) for tree in (kept, end)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert card.class_names == tuple(f"class{label}" for label in range(4))
    arrays = training_images(config, card)
    predicted = finetune_jax.load(tmp_path / "between")(arrays.images).argmax(1)
    assert (predicted == arrays.labels).mean() > 0.3


def test_another_run_may_be_the_start_and_other_data_may_be_measured_too(trained, one):
    config, runs = trained
    curve = interpolate.interpolate(runs[0], (0.0, 1.0), one, start=runs[1], others=[config.dataset])
    assert set(curve.scores) == {"validation", "test", config.dataset}
    assert curve.scores["test"] == curve.scores[config.dataset]
    alone = interpolate.interpolate(runs[1], (1.0,), one)
    assert curve.scores["test"][0] == alone.scores["test"][0]


def test_a_soup_is_at_least_as_good_as_its_best_run(trained, one, tmp_path):
    _, runs = trained
    soup = interpolate.soup(runs, one, output=tmp_path / "soup")
    singles = [interpolate.interpolate(run, (1.0,), one).scores["validation"][0] for run in runs]
    assert soup.score >= max(singles)
    _, kept = read_best(tmp_path / "soup")
    members = [read_best(runs[number])[1]["params"] for number in soup.chosen]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *members)
    for a, b in zip(jax.tree.leaves(kept["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_has_no_average_is_refused(trained, one, tmp_path):
    config, runs = trained
    with pytest.raises(UserError, match=r"--soup=.* is one network; give several"):
        interpolate.soup(runs[:1], one)
    other = tmp_path / "other"
    smaller = dataclasses.replace(config, workdir=str(other), prune_depth=1, epochs=1)
    finetune.run(smaller, one)
    with pytest.raises(UserError, match="of different network"):
        interpolate.soup([runs[0], other], one)


def test_a_soup_of_the_epochs_of_a_run_is_an_average_of_those_that_it_kept(trained, one, tmp_path):
    config, _ = trained
    workdir = tmp_path / "run"
    config = dataclasses.replace(config, workdir=str(workdir), keep_epochs=2, epochs=4, schedule="constant")
    finetune.run(config, one)
    scores = [float(row["validation_accuracy"]) for row in RunDirectory(workdir).read_metrics()]
    steps = checkpoints.best_steps(workdir / "checkpoints")
    epochs = [step // steps_per_epoch(workdir) - 1 for step in steps]
    ranked = sorted(range(4), key=lambda epoch: (scores[epoch], epoch), reverse=True)
    # The latest one stays as well, to go on from.
    assert epochs[:2] == ranked[:2]
    assert set(epochs) == {*ranked[:2], 3}
    soup = interpolate.soup([workdir], one, output=tmp_path / "soup")
    assert set(soup.scores) == {"validation", "test"}
    card, kept = read_best(tmp_path / "soup")
    trees = [
        checkpoints.restore_variables(workdir / "checkpoints", steps[number], card.saved_shapes())["params"]
        for number in soup.chosen
    ]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *trees)
    for a, b in zip(jax.tree.leaves(kept["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def steps_per_epoch(workdir):
    return int(RunDirectory(workdir).read_metrics()[0]["step"])


def test_shares_beyond_the_two_networks_are_refused(monkeypatch):
    values = {
        "run": "runs/photos",
        "soup": [],
        "output": "",
        "projection": False,
        "start": "",
        "alphas": ["0", "1.5"],
        "datasets": [],
    }
    monkeypatch.setattr(command, "flags", SimpleNamespace(FLAGS=SimpleNamespace(**values)))
    monkeypatch.setattr(command.command_line, "numbers", lambda flag, kind: (0.0, 1.5))
    with pytest.raises(UserError, match=r"--alphas=0,1\.5"):
        command.main()


def test_views_average_the_outputs_of_mirror_images_and_crops(trained):
    """The run resizes to 9 pixels and sees 8."""
    _, runs = trained
    photo = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    plain = finetune_jax.load(runs[0])
    assert plain.card.preprocessing.resize == 9
    crops = [photo[y : y + 8, x : x + 8] for y, x in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0))]
    center = photo[round(0.5) : round(0.5) + 8, round(0.5) : round(0.5) + 8]
    crops[4] = center
    by_hand = np.concatenate([logits_of(runs[0], crop) for crop in crops])
    np.testing.assert_allclose(
        finetune_jax.load(runs[0], views="five_crops").logits(photo)[0], by_hand.mean(0), rtol=1e-4, atol=1e-4
    )
    mirrored = np.concatenate([logits_of(runs[0], view) for view in (center, center[:, ::-1])])
    np.testing.assert_allclose(
        finetune_jax.load(runs[0], views="mirror").logits(photo)[0], mirrored.mean(0), rtol=1e-4, atol=1e-4
    )
    with_mirrors = np.concatenate([by_hand, *[logits_of(runs[0], crop[:, ::-1]) for crop in crops]])
    np.testing.assert_allclose(
        finetune_jax.load(runs[0], views="ten_crops").logits(photo)[0],
        with_mirrors.mean(0),
        rtol=1e-4,
        atol=1e-4,
    )


def logits_of(run, pixels):
    card, variables = read_best(run)
    images = normalizer(card.mean, card.std)(pixels[None].astype(np.float32))
    return np.asarray(card.network().apply(variables, images))


def test_evaluation_over_views_is_that_of_prediction_over_views(trained, one):
    config, runs = trained
    result = evaluate.measure(
        runs[0], config, one, split="test", protocol="classification", views="ten_crops"
    )
    source = datasets.load_source(config, silent=True)
    predictor = finetune_jax.load(runs[0], views="ten_crops")
    labels = source.splits["test"].labels
    paths = list(source.splits["test"].names)
    accuracy = (predictor(paths).argmax(1) == labels).mean()
    assert result["scores"]["accuracy"] == pytest.approx(accuracy)
    assert result["views"] == "ten_crops"


def test_crops_of_images_that_are_not_larger_are_refused(trained, one):
    _, runs = trained
    card, variables = read_best(runs[0])
    card = dataclasses.replace(card, preprocessing=dataclasses.replace(card.preprocessing, resize=8))
    with pytest.raises(UserError, match="--views=five_crops crops larger images"):
        Predictor(card, variables, views="five_crops")
    with pytest.raises(UserError, match="--views=mirror is for --protocol=classification"):
        evaluate.measure(runs[0], trained[0], one, split="test", protocol="retrieval", views="mirror")


def test_each_array_of_a_projected_network_is_within_one_radius_of_its_start(trained, one, tmp_path):
    config, runs = trained
    result = interpolate.project(runs[0], one, steps=6, rate=0.3, output=tmp_path / "near")
    assert set(result.scores) == {"start", "run", "projected"}
    assert set(result.scores["run"]) == {"validation", "test"}
    alone = interpolate.interpolate(runs[0], (0.0, 1.0), one)
    for split in ("validation", "test"):
        assert [result.scores[name][split] for name in ("start", "run")] == list(alone.scores[split])
    _, kept = read_best(tmp_path / "near")
    _, end = read_best(runs[0])
    start = run_start.load_origin(config).variables["params"]
    for name, share in result.kept.items():
        ratios = []
        for a, b, c in zip(
            *(jax.tree.leaves(tree[name]) for tree in (kept["params"], start, end["params"])), strict=True
        ):
            near, far = np.asarray(a) - np.asarray(b), np.asarray(c) - np.asarray(b)
            axes = tuple(range(far.ndim - 1))
            after, before = (np.abs(leaf).sum(axes) for leaf in (near, far))
            radius = after.max()
            # Rows outside the radius have its norm, the others are where they were.
            np.testing.assert_allclose(after, np.minimum(before, radius), rtol=1e-3, atol=1e-6)
            ratios.append(after.sum() / before.sum())
        assert share == pytest.approx(np.mean(ratios), rel=1e-3)
    assert any(share < 0.999 for share in result.kept.values())
    for a, b in zip(*(jax.tree.leaves(tree["params"]["head"]) for tree in (kept, end)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_learned_radii_do_not_depend_on_the_number_of_devices(trained, one):
    _, runs = trained
    kept = [
        interpolate.project(runs[0], Replicas(tuple(jax.devices()[:devices])), steps=2, rate=0.3).kept
        for devices in (1, 2)
    ]
    assert kept[0] == pytest.approx(kept[1], rel=1e-3)
