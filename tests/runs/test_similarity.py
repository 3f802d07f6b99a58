"""Data sets in the features of a network, files of them, what they recommend, and runs that ask."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from photos import MORE_COLOURS, write_photos
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from finetune_jax import data as datasets
from finetune_jax.algorithms.hyperparameters import Reference
from finetune_jax.config.checks import validate
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig, SimilarityConfig
from finetune_jax.data.decode import preprocess
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.weight_files import read_write
from finetune_jax.models.card import read_best
from finetune_jax.models.weights import pretrained
from finetune_jax.reports import similarity as similarity_report
from finetune_jax.reports import study_report
from finetune_jax.runs import finetune, references, start
from finetune_jax.runs.domains import Domain, Prober
from finetune_jax.runs.references import References
from finetune_jax.studies import similarity
from finetune_jax.studies.runs import Runs
from finetune_jax.training import loop

ONE = Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    write_photos(root / "photos", per_class=12)
    write_photos(root / "others", per_class=6, colours=MORE_COLOURS)
    return root


@pytest.fixture(scope="module")
def config(root):
    return SimilarityConfig(cache_dir=str(root / "cache"), image_size=16, validation_fraction=0.0)


@pytest.fixture(scope="module")
def prober(config):
    return Prober(config, start.load_origin(config), ONE, pretrained=config.pretrained)


@pytest.fixture(scope="module")
def photos(root, prober):
    return prober.data_set(f"folder:{root}/photos", flag="targets")


@pytest.fixture(scope="module")
def others(root, prober):
    return prober.data_set(f"folder:{root}/others", flag="source")


def test_class_means_are_those_of_features_taken_image_by_image(photos, config):
    source = datasets.load_source(dataclasses.replace(config, dataset=photos.name), silent=True)
    train = source.splits["train"]
    origin = start.load_origin(config)
    prepared = datasets.preprocessing(dataclasses.replace(config, dataset=photos.name), 16, train=False)
    images = np.stack([preprocess(train.read(i), prepared) for i in range(len(train))])
    normal = (images / 255 - np.array(origin.mean)) / np.array(origin.std)
    features = np.asarray(jax.jit(origin.network.embed)(origin.variables, normal.astype(np.float32)))
    assert photos.images == len(train)
    files = len(list(Path(photos.name.removeprefix("folder:")).rglob("*.png")))
    assert sum(len(examples) for examples in source.splits.values()) == files
    for label in range(3):
        rows = features[train.labels == label]
        np.testing.assert_allclose(photos.means[label], rows.mean(0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(photos.weights[label], len(rows) / len(train), rtol=1e-6)


def test_the_distance_is_the_optimum_of_the_transport_problem(photos, others):
    costs = cdist(photos.means.astype(np.float64), others.means.astype(np.float64))
    rows, columns = costs.shape
    sums = np.zeros((rows + columns, rows * columns))
    for i in range(rows):
        sums[i, i * columns : (i + 1) * columns] = 1
    for j in range(columns):
        sums[rows + j, j::columns] = 1
    shares = np.concatenate(
        [d.weights.astype(np.float64) / d.weights.sum(dtype=np.float64) for d in (photos, others)]
    )
    expected = linprog(costs.ravel(), A_eq=sums, b_eq=shares).fun
    assert photos.distance(others) == pytest.approx(expected, rel=1e-5)
    assert photos.distance(photos) == pytest.approx(0, abs=1e-9)


def test_a_file_stands_for_the_data_set_it_was_made_of(tmp_path, prober, photos, others, config):
    file = str(tmp_path / "others.npz")
    prober.write(others, file)
    stored = prober.source(file)
    trained_on = datasets.load_source(dataclasses.replace(config, dataset=others.name), silent=True).splits[
        "train"
    ]
    assert stored.distance(photos) == others.distance(photos)
    assert (stored.name, stored.images, stored.image_size) == (others.name, len(trained_on), 16)
    with np.load(file, allow_pickle=False) as content:  # plain arrays for anybody
        np.testing.assert_array_equal(content["means"], others.means)


def test_bundled_weights_bring_the_class_means_of_their_source(config):
    natural = dataclasses.replace(config, image_size=0)
    origin = start.load_origin(natural)
    found = Prober(natural, origin, ONE, pretrained=natural.pretrained).source("")
    assert (found.name, found.images, found.image_size) == ("CIFAR-10", 50_000, 32)
    assert found.means.shape == (10, 96)
    np.testing.assert_allclose(found.weights, 0.1, rtol=1e-6)
    # The network's own classifier knows the mean of each class.
    head = origin.variables
    part = origin.network.part("head")
    own = {kind: head[kind]["head"] for kind in ("params", "batch_stats") if head[kind]["head"]}
    logits = part.apply(own, found.means[:, None, None, :], False)
    np.testing.assert_array_equal(np.argmax(logits, 1), np.arange(10))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"other": np.ones(3)}, "holds no class means: it needs the arrays means"),
        ({"means": np.ones((3, 5)), "weights": np.ones(3)}, "means of 5 features, but .* has 96"),
        ({"means": np.ones((1, 96)), "weights": np.ones(1)}, "at least two classes"),
        ({"means": np.ones((3, 96)), "weights": np.ones(2)}, r"not \[3, 96\] and \[2\]"),
        ({"means": np.full((3, 96), np.nan), "weights": np.ones(3)}, "not finite"),
        ({"means": np.ones((3, 96)), "weights": -np.ones(3)}, "weights below 0"),
        (
            {"means": np.ones((3, 96)), "weights": np.ones(3), "digest": np.frombuffer(b"other", np.uint8)},
            "was made with other weights; make it again",
        ),
        (
            {"means": np.ones((3, 96)), "weights": np.ones(3), "image_size": np.int64(64)},
            "of 64 pixels, but --image_size=16",
        ),
    ],
)
def test_means_that_do_not_go_with_the_network_are_refused(content, named, tmp_path, prober):
    read_write.write(tmp_path / "bad.npz", {name: np.asarray(value) for name, value in content.items()})
    with pytest.raises(UserError, match=f"--source=.*bad.npz.*{named}"):
        prober.source(str(tmp_path / "bad.npz"))


def test_bad_sources_are_named_by_their_flag(tmp_path, root, config, prober):
    with pytest.raises(UserError, match=r"does not exist"):
        prober.source(str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match="--source=folder:/nowhere/at/all"):
        prober.source("folder:/nowhere/at/all")
    with pytest.raises(
        UserError, match=r"^--source=photos is none of .*, and there is no folder or table /.*photos$"
    ):
        prober.source("photos")
    single = write_photos(tmp_path / "single", per_class=3, colours={"sky": (0, 0, 200)})
    with pytest.raises(UserError, match=r"--source=folder:.*single: .* has a single training class"):
        prober.source(f"folder:{single}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--source=folder:.*empty"):
        prober.source(f"folder:{tmp_path}/empty")
    with pytest.raises(UserError, match=r"bundle.* holds means of images of 32 pixels, but --image_size=16"):
        prober.source("")
    with pytest.raises(UserError, match="--pretrained=none has no features"):
        Prober(config, pretrained.Pretrained(start.load_origin(config).network, {}), ONE, pretrained="none")
    elsewhere = Prober(config, start.load_origin(config), ONE, pretrained="my.pth")
    with pytest.raises(UserError, match=r"--source is needed: --pretrained=my\.pth does not come with"):
        elsewhere.source("")


# --- references ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "architecture", "name", "remarked"),
    [
        ("auto", "resnet101v2", "imagenet/resnet101", False),
        ("auto", "densenet121", "imagenet/densenet121", False),
        ("auto", "mobilenet", "imagenet/mobilenet", False),
        ("auto", "resnet26", "imagenet/resnet101", True),
        ("inat2017/resnet101", "resnet101", "inat2017/resnet101", False),
        ("places365/resnet101", "densenet121", "places365/resnet101", True),
    ],
)
def test_the_column_of_table_4_goes_by_the_network(reference, architecture, name, remarked):
    found = references.load(reference, architecture)
    assert found.name == name
    assert len(found.cells) == 7
    assert bool(found.remark) is remarked


def test_references_of_your_own(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"near": {"similarity": 0.99, "effective_learning_rate": 0.02}}))
    found = references.load(str(file), "resnet26")
    assert found.cells == {"near": Reference(0.99, 0.02)}
    assert not found.remark
    for content in ("{", "[]", "{}", '{"a": {"similarity": 2, "effective_learning_rate": 1}}', '{"a": 3}'):
        file.write_text(content)
        with pytest.raises(UserError, match="--reference="):
            references.load(str(file), "resnet26")
    with pytest.raises(
        UserError, match=r"--reference=imagenet is not known; give auto, FILE\.json, or imagenet/"
    ):
        references.load("imagenet", "resnet26")


def at_distance(distance):
    """A domain whose classes are all so far from those of ``at_distance(0)``."""
    return Domain(
        f"at {distance:g}", np.array([[distance, 0.0], [distance, 1e-9]]), np.array([0.5, 0.5]), 2, 8
    )


def test_targets_stand_among_the_references_by_their_similarity(tmp_path):
    known = References("own", {"near": Reference(0.9, 0.01), "far": Reference(0.5, 0.5)})
    result = similarity.compare(at_distance(0), [at_distance(60), at_distance(5)], known)
    near, far = result["targets"]
    assert near["similarity"] == pytest.approx(np.exp(-0.05), rel=1e-5)
    assert far["similarity"] == pytest.approx(np.exp(-0.6), rel=1e-5)
    assert (near["reference"], near["effective_learning_rates"]) == ("near", [0.001, 0.01])
    assert (far["reference"], far["effective_learning_rates"]) == ("far", [0.1, 1.0])
    assert "far is nearest (0.500), where 0.5 is the best" in far["reason"]
    lines = study_report.text(similarity_report.report(result)).splitlines()
    order = [line.split("  ")[0] for line in lines[4:8]]
    assert order == ["at 5", "(own) near", "at 60", "(own) far"]
    Runs(tmp_path, ONE).write_files(study_report.files(similarity_report.report(result)))
    assert json.loads((tmp_path / "results.json").read_text()) == result
    assert (tmp_path / "results.txt").read_text().splitlines() == lines
    assert (tmp_path / "similarity.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="at 1e\\+06 is at distance"):
        similarity.compare(at_distance(0), [at_distance(1e6)], known)


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(root):
    return FinetuneConfig(
        dataset=f"folder:{root}/photos",
        cache_dir=str(root / "cache"),
        image_size=8,
        batch_size=8,
        prune_depth=9,
        epochs=1,
        momentum=0.5,
    )


def test_the_rate_that_similarity_recommends_trains_as_if_given_by_hand(base, root, monkeypatch):
    config = changed(
        base, learning_rate="auto", reference="imagenet/resnet101", workdir=str(root / "automatic")
    )
    probes = []
    opened = Prober.opened
    monkeypatch.setattr(Prober, "opened", lambda *args, **more: probes.append(1) or opened(*args, **more))

    def stop(*_args, **_more):
        raise Stopped("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "fit", stop)
        with pytest.raises(Stopped):
            finetune.run(config, ONE)
    assert len(probes) == 1
    summary = finetune.run(config, ONE)
    assert len(probes) == 1, "a run that goes on must not choose again"
    # The bundled source has 32 px, whatever the run trains at; in these features Caltech is always nearest.
    assert summary["effective_learning_rate"] == 0.005
    assert summary["learning_rate"] == 0.0025
    assert any("CIFAR-10" in note and "caltech is nearest" in note for note in summary["notes"])
    flags = json.loads((root / "automatic" / "flags.json").read_text())
    assert flags["learning_rate"] == "auto"
    assert flags["resolved"]["learning_rate"] == 0.0025
    assert "caltech is nearest" in flags["resolved"]["reason"]
    with pytest.raises(
        UserError,
        match=r"holds a run with other flags: --learning_rate=0\.0025 \(was auto\), --reference=auto",
    ):
        finetune.run(changed(config, learning_rate=0.0025, reference="auto"), ONE)

    by_hand = changed(base, learning_rate=summary["learning_rate"], workdir=str(root / "by_hand"))
    finetune.run(by_hand, ONE)
    rows = [RunDirectory(root / name).read_metrics() for name in ("automatic", "by_hand")]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    jax.tree.map(
        np.testing.assert_array_equal, read_best(root / "automatic")[1], read_best(root / "by_hand")[1]
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": "auto", "optimizer": "adamw"}, "--optimizer=adamw: it recommends an effective"),
        ({"learning_rate": "auto", "method": "autolr"}, "--method=autolr, which finds the rates"),
        ({"learning_rate": "auto", "method": "scratch"}, "--method=scratch: it says how far"),
        ({"learning_rate": "auto", "method": "feature_extractor"}, "--method=feature_extractor"),
        ({"learning_rate": "auto", "pretrained": "none"}, "--pretrained=none: it says how far"),
        ({"learning_rate": "auto", "effective_learning_rate": 0.1}, "say the same in two units"),
        ({"learning_rate": "fast"}, "--learning_rate=fast is no number; give one, or auto"),
        ({"source": "digits"}, r"--source=digits is for --learning_rate=auto and has no meaning"),
        ({"reference": "mine.json"}, r"--reference=mine.json is for --learning_rate=auto"),
    ],
)
def test_what_does_not_go_with_automatic_rates_is_named(settings, named):
    with pytest.raises(UserError, match=named):
        validate(FinetuneConfig(**settings))
