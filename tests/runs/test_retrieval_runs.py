"""Runs that learn to retrieve: heads, losses, galleries, and what their directories are good for."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import COLOURS, MORE_COLOURS, write_photos

import finetune_jax
from finetune_jax import data as datasets
from finetune_jax import models
from finetune_jax.algorithms import augmentation, retrieval
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import sources
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.models import heads, registry
from finetune_jax.models.card import read_best
from finetune_jax.models.layers.basic import Numerics
from finetune_jax.models.weights import pretrained
from finetune_jax.reports import run_figures
from finetune_jax.runs import evaluate, finetune, interpolate
from finetune_jax.training import objectives, tasks

ONE = Replicas((jax.devices()[0],))


# --- heads ---------------------------------------------------------------------------------------------------


def test_the_retrieval_head_is_the_papers_in_numpy() -> None:
    rng = np.random.default_rng(0)
    head = heads.RetrievalHead(5, Numerics())
    x = jnp.asarray(rng.normal(size=(6, 3, 3, 7)), jnp.float32)
    variables = head.init(jax.random.key(0), x, False)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32), variables
    )
    p, s = variables["params"], variables["batch_stats"]["norm"]
    hidden = np.asarray(x).mean((1, 2)) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    normed = (hidden - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    active = np.where(normed > 0, normed, 0.1 * normed)
    expected = active @ p["classifier"]["kernel"] + p["classifier"]["bias"]
    assert p["hidden"]["kernel"].shape == (7, 512)
    np.testing.assert_allclose(head.apply(variables, x, False), expected, rtol=2e-4)


def test_in_training_half_of_the_hidden_values_drop_out_and_the_rest_is_doubled() -> None:
    head = heads.RetrievalHead(512, Numerics())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 7)), jnp.float32)
    variables = head.init(jax.random.key(0), x, False)
    params = {**variables["params"], "classifier": {"kernel": jnp.eye(512), "bias": jnp.zeros(512)}}

    def run(key: Any) -> np.ndarray:
        out, _ = head.apply(
            {**variables, "params": params}, x, True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return np.asarray(out)

    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert 0.45 < (first == 0).mean() < 0.55
    both = (first != 0) & (other != 0)
    np.testing.assert_allclose(first[both], other[both], rtol=1e-4)


def test_a_head_is_replaced_whole_and_the_own_one_keeps_its_norm() -> None:
    network, variables = models.load_pretrained("resnet26_cifar10")
    key = jax.random.key(3)
    other, changed = pretrained.replace_head(network, variables, 4, key, head="retrieval")
    assert (other.head_name, other.num_classes) == ("retrieval", 4)
    assert set(changed["params"]["head"]) == {"hidden", "norm", "classifier"}
    assert set(changed["batch_stats"]["head"]) == {"norm"}
    back, again = pretrained.replace_head(other, changed, 10, key)
    assert (back.head_name, set(again["params"]["head"])) == ("classifier", {"norm", "classifier"})
    _, kept = pretrained.replace_head(network, variables, 4, key)
    np.testing.assert_array_equal(
        kept["params"]["head"]["norm"]["scale"], variables["params"]["head"]["norm"]["scale"]
    )
    with pytest.raises(ValueError, match="there is no head 'arms'"):
        registry.create("resnet26", 4, head="arms")
    # Networks with any head can be exported, and read again.
    state = models.to_torch_state(other, changed)
    assert "head.hidden.weight" in state
    same = models.from_torch_state(other, state)
    np.testing.assert_array_equal(
        same["params"]["head"]["classifier"]["kernel"], changed["params"]["head"]["classifier"]["kernel"]
    )


# --- objectives ----------------------------------------------------------------------------------------------


def test_replicas_drop_out_differently_and_examples_are_augmented_by_their_slot() -> None:
    seen = []

    def forward(params: Any, frozen: Any, batch_stats: Any, images: Any, key: Any) -> objectives.Prediction:
        seen.append((np.asarray(images), jax.random.key_data(key)))
        return objectives.Prediction(images.reshape(len(images), -1), {})

    def augment(key: Any, image: Any, aspect: Any) -> Any:
        return image + jax.random.uniform(key)

    function = objectives.objective(
        forward, objectives.cross_entropy(), normalize=lambda images: images, augment=augment
    )
    images, labels = jnp.zeros((2, 1, 1, 3)), jnp.zeros(2, jnp.int32)
    for slots in ((0, 1), (2, 3)):
        function({}, {}, {}, objectives.Batch(images, labels, jnp.array(slots)), jax.random.key(0))
    values = np.concatenate([images[:, 0, 0, 0] for images, _ in seen])
    assert len(set(values.tolist())) == 4
    assert (seen[0][1] != seen[1][1]).any()


def test_a_penalty_is_added_to_the_loss_and_not_to_its_total() -> None:
    def forward(params: Any, frozen: Any, batch_stats: Any, images: Any, key: Any) -> objectives.Prediction:
        return objectives.Prediction(
            jnp.zeros((2, 4)), {}, 0.5 * (params["w"] ** 2).sum(), {"used": jnp.float32(1)}
        )

    function = objectives.objective(
        forward, objectives.cross_entropy(), normalize=lambda images: images, augment=augmentation.identity
    )
    batch = objectives.Batch(jnp.zeros((2, 1, 1, 3)), jnp.zeros(2, jnp.int32), jnp.arange(2))
    value, outcome = function({"w": jnp.array([3.0])}, {}, {}, batch, jax.random.key(0))
    assert float(value) == pytest.approx(np.log(4) + 4.5)
    assert float(outcome.totals["loss"]) == pytest.approx(2 * np.log(4))
    assert set(outcome.totals) == {"loss", "correct", "examples", "used"}


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("photos")
    photos = write_photos(root / "photos", colours=COLOURS | MORE_COLOURS)
    return FinetuneConfig(
        dataset=f"folder:{photos}",
        cache_dir=str(root / "cache"),
        protocol="retrieval",
        image_size=16,
        batch_size=12,
        epochs=2,
        prune_depth=8,
    )


@pytest.fixture(scope="module")
def finished(base: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    workdir = tmp_path_factory.mktemp("runs") / "retrieval"
    return workdir, finetune.run(dataclasses.replace(base, workdir=str(workdir)), ONE)


def test_a_retrieval_run_trains_on_half_of_the_classes_and_is_scored_on_the_others(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    workdir, summary = finished
    assert (summary["classes"], summary["score"]) == (3, "test_recall_at_1")
    assert summary["images"]["test"] == 60
    assert 1 / 3 < summary["test_recall_at_1"] <= summary["test_recall_at_8"] <= 1
    assert summary["validation_recall_at_1"] > 1 / 3
    card, _ = read_best(workdir)
    assert (card.head, card.class_names) == ("retrieval", ("apple", "leaf", "lemon"))
    assert {"neighbours.png", "variations.png", "training.png"} <= {path.name for path in workdir.iterdir()}
    assert "Test Recall@1" in (workdir / "report.html").read_text()


def test_networks_between_it_and_its_start_are_judged_by_what_they_retrieve(
    finished: tuple[Path, dict[str, Any]], base: FinetuneConfig, tmp_path: Path
) -> None:
    workdir, _ = finished
    curve = interpolate.interpolate(workdir, (0.5, 1.0), ONE, output=tmp_path / "between")
    assert curve.score_name == "recall_at_1"
    source = datasets.load_source(base, silent=True)
    validation = source.splits["validation"]
    embeddings = finetune_jax.load(tmp_path / "between").embed(list(validation.names))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    likeness = embeddings @ embeddings.T - 2 * np.eye(len(embeddings))
    hits = validation.labels[likeness.argmax(1)] == validation.labels
    assert curve.scores["validation"][curve.chosen] == pytest.approx(hits.mean())


def test_its_directory_gives_the_same_score_again_and_embeddings(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    workdir, summary = finished
    config = data_config_of(workdir)
    result = evaluate.measure(workdir, config, ONE, split="test", protocol="retrieval")
    assert result["scores"]["Recall@1"] == summary["test_recall_at_1"]
    predictor = finetune_jax.load(workdir)
    folder = config.dataset.removeprefix("folder:")
    paths = [f"{folder}/{name}/{i:02d}.png" for name in ("plum", "sky", "snow") for i in range(20)]
    recalls = retrieval.recall_at_k(predictor.embed(paths), np.repeat(np.arange(3), 20), (1,))
    assert recalls[1] == pytest.approx(summary["test_recall_at_1"], abs=0.02)
    network, _ = models.load_pretrained(str(workdir), num_classes=2)
    assert (network.head_name, network.num_classes, len(network.blocks)) == ("classifier", 2, 4)


def test_proxy_anchor_trains_proxies_at_a_rate_of_their_own(base: FinetuneConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        base,
        workdir=str(tmp_path),
        loss="proxy_anchor",
        method="autolr",
        learning_rate=1e-3,
        select_on="test",
    )
    summary = finetune.run(config, ONE)
    assert summary["test_recall_at_1"] > 1 / 3
    rates = RunDirectory(tmp_path).read_passes()[0]
    assert float(rates["rate/proxies"]) == pytest.approx(0.1)
    card, variables = read_best(tmp_path)
    assert card.head == "embedding"
    assert "proxies" not in variables["params"]
    assert finetune_jax.load(tmp_path).embed(np.zeros((2, 20, 20, 3), np.uint8)).shape == (2, 512)
    with pytest.raises(UserError, match="learned embeddings and no classifier"):
        evaluate.measure(tmp_path, data_config_of(tmp_path), ONE, split="test", protocol="classification")


def test_proxies_start_as_kaiming_normal_and_are_of_the_training_classes() -> None:
    task = tasks.create(FinetuneConfig(protocol="retrieval", loss="proxy_anchor"))
    proxies = task.parts_beside_network(50, jax.random.key(0))["proxies"]["kernel"]
    assert proxies.shape == (50, 512)
    assert float(proxies.std()) == pytest.approx((2 / 50) ** 0.5, rel=0.02)


# --- a gallery of its own ------------------------------------------------------------------------------------


def write_gallery(root: Path) -> Path:
    write_photos(root / "train", per_class=8, colours=COLOURS)
    write_photos(root / "query", per_class=3, colours=MORE_COLOURS, seed=1)
    write_photos(root / "gallery", per_class=5, colours=MORE_COLOURS, seed=2)
    return root


def test_queries_are_searched_for_in_the_gallery(base: FinetuneConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        base,
        dataset=f"folder:{write_gallery(tmp_path / 'shop')}",
        workdir=str(tmp_path / "run"),
        epochs=1,
        ks=(1, 15),
        select_on="last",
    )
    summary = finetune.run(config, ONE)
    assert (summary["images"]["test"], summary["images"]["gallery"]) == (9, 15)
    assert summary["test_recall_at_15"] == 1.0  # the whole gallery, the query itself is not in it
    result = evaluate.measure(
        tmp_path / "run", data_config_of(tmp_path / "run"), ONE, split="test", protocol="retrieval"
    )
    assert result["scores"]["Recall@1"] == summary["test_recall_at_1"]


def test_galleries_that_cannot_be_are_refused(tmp_path: Path) -> None:
    shop = write_gallery(tmp_path / "shop")
    (shop / "gallery" / "plum").rename(tmp_path / "plum")
    with pytest.raises(UserError, match="the gallery has no images of plum, which is searched for"):
        sources.load(f"folder:{shop}", protocol="retrieval")
    (shop / "query").rename(tmp_path / "query")
    with pytest.raises(UserError, match="has gallery/ but no query/"):
        sources.load(f"folder:{shop}", protocol="retrieval")
    (shop / "train").rename(shop / "query")
    write_photos(shop / "train", per_class=2, colours=COLOURS)
    with pytest.raises(UserError, match="with a gallery, query must have only classes that train has not"):
        sources.load(f"folder:{shop}", protocol="retrieval")


# --- pictures ------------------------------------------------------------------------------------------------


class Arrays:
    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, np.int32)
        self.images = np.zeros((len(labels), 4, 4, 3), np.uint8)


def test_a_query_is_no_neighbour_of_itself_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def note(queries: Any, neighbours: Any, similarities: Any, correct: Any, **names: Any) -> str:
        drawn.update(similarities=similarities, correct=correct, **names)
        return "figure"

    monkeypatch.setattr("finetune_jax.reports.figures.draw_retrieval_strips", note)
    embeddings = np.eye(4)[[0, 0, 1, 2]] + 0.1  # the first two are equal
    (picture,) = run_figures.of_retrieval(embeddings, Arrays([0, 0, 1, 1]), ["cat", "dog"])
    assert picture.figure == "figure"
    assert drawn["similarities"].shape == (4, 3)
    assert drawn["similarities"][0, 0] == pytest.approx(1)  # its copy, not itself
    assert (drawn["similarities"][2:] < 0.99).all()
    assert drawn["correct"][0].tolist() == [True, False, False]
    assert run_figures.of_retrieval(embeddings[:1], Arrays([0]), ["cat"]) == []
