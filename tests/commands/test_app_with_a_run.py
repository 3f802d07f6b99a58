"""The app over a run that was trained: photos, mistakes, corrections, and all of it in a real browser."""

import csv
import dataclasses
import io
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import chromium
import jax
import numpy as np
import pytest
from made_up_runs import trials, write_run
from PIL import Image
from small_runs import routed_run

from finetune_jax import data as datasets
from finetune_jax.commands.web.answers import Request
from finetune_jax.commands.web.guard import Guard
from finetune_jax.commands.web.server import Server
from finetune_jax.commands.web.site import Site
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.runs import finetune
from finetune_jax.runs.catalogue import Catalogue
from finetune_jax.runs.photo import Viewer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: one of SpotTune that is trained, one that goes on, one of AutoLR with trials."""
    root = tmp_path_factory.mktemp("app")
    config = routed_run(root, per_class=12, epochs=1, workdir=str(root / "runs" / "spottune"))
    finetune.run(config, Replicas((jax.devices()[0],)))
    write_run(root / "runs" / "going", done=1, score=None)
    write_run(root / "runs" / "autolr", method="autolr", passes=trials())
    return root


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return Site(Catalogue(folder / "runs"))


def photo_file(folder: Path) -> bytes:
    return (folder / "photos" / "leaf" / "03.png").read_bytes()


def post(site: Site, *path: str, body: bytes, **query: str) -> str:
    return site.respond(Request("POST", ("run", "spottune", *path), query, body, "x.png")).body.decode()


def test_a_photo_is_labelled_as_predict_does_and_its_copies_are_told(site, folder):
    text = post(site, "photo", "labels", body=photo_file(folder))
    viewer = Viewer(folder / "runs" / "spottune")
    chances = viewer.predictor(folder / "photos" / "leaf" / "03.png")[0]
    best = int(chances.argmax())
    assert f"{viewer.card.class_names[best]}, {100 * chances[best]:.2f}\xa0%" in text
    # The frozen copy below one half, the tuned one above it.
    blocks = re.findall(r'<li class="(tuned|)">\d+<br>(tuned|pretrained)<br>([\d.]+)', text)
    assert len(blocks) == len(viewer.card.model().routed)
    for kind, word, percent in blocks:
        assert (kind == "tuned") == (word == "tuned") == (float(percent) > 50)


def test_grad_cam_of_a_routed_run_is_that_of_the_path_that_the_photo_takes(folder):
    """Of a policy that is overruled, that of the tuned network alone."""
    from finetune_jax.models import grad_cam
    from finetune_jax.models.normalization import normalizer
    from finetune_jax.runs.explain import Explainer

    viewer = Viewer(folder / "runs" / "spottune")
    card = dataclasses.replace(viewer.card, composition={**viewer.card.composition, "all_tuned": True})
    _, variables = models_of(folder)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    explainer = Explainer(card, variables)
    found = explainer.maps(images, explainer.blocks)
    network = card.network()
    tuned, _ = card.model().copies(variables)
    ready = normalizer(card.mean, card.std)(images)
    expected = grad_cam.grad_cams(network, tuned, ready, explainer.blocks)
    for name, heat in expected.items():
        np.testing.assert_allclose(found[name], heat, atol=1e-5)


def models_of(folder):
    from finetune_jax.models.card import read_best

    return read_best(folder / "runs" / "spottune")


def test_neighbours_are_training_images_the_most_similar_first(site, folder):
    viewer = Viewer(folder / "runs" / "spottune")
    source = datasets.load_source(viewer.config, silent=True)
    examples = source.splits["train"]
    found = viewer.neighbours(examples.read(5), 3)
    assert found[0].name == examples.names[5]
    assert found[0].similarity == pytest.approx(1, abs=1e-4)
    assert [one.similarity for one in found] == sorted([one.similarity for one in found], reverse=True)
    assert all(Path(one.name).parent.name == one.label for one in found)
    text = post(site, "photo", "neighbours", body=photo_file(folder))
    assert f"All {len(examples)} training images" in text


def test_what_is_no_photo_is_answered_by_a_sentence(site):
    for content in (b"", b"no photo", b"\x89PNG\r\n\x1a\n" + b"\0" * 100):
        with pytest.raises(UserError, match=r"cannot read the image x\.png"):
            post(site, "photo", "labels", body=content)


def test_a_page_of_a_run_that_cannot_be_shown_keeps_the_way_to_the_others(site):
    answer = site.respond(Request("GET", ("run", "going", "photo")))
    assert answer.status == 422
    text = answer.body.decode()
    assert "has not ended its first epoch" in text
    assert 'href="/run/going"' in text
    assert 'href="/run/going/trials"' not in text  # which only AutoLR has


def test_mistakes_are_those_of_the_network_and_corrections_come_as_csv(site, folder):
    viewer = Viewer(folder / "runs" / "spottune")
    split = viewer.labelled("test")
    wrong = {
        split.examples.names[place]
        for place, row, label in zip(split.places, split.probabilities, split.labels, strict=True)
        if row.argmax() != label
    }
    assert wrong  # one epoch of a random network
    query = {"split": "test"}
    text = site.respond(Request("GET", ("run", "spottune", "mistakes", "list"), query)).body.decode()
    shown = dict(re.findall(r'data-number="(\d+)" data-label="(\w+)"', text))
    names = re.findall(r'class="file" title="([^"]+)"', text)
    assert wrong <= set(names)
    first = next(iter(shown))
    other = next(name for name in viewer.card.class_names if name != shown[first])
    kept = {number: label for number, label in shown.items() if number != first}
    body = json.dumps({**kept, first: other}).encode()
    rows = list(csv.DictReader(io.StringIO(post(site, "corrections", body=body, split="test"))))
    assert len(rows) == 1  # what keeps its label is no correction
    assert {"image": names[0], "label": other, "was": shown[first], "split": "test"}.items() <= rows[
        0
    ].items()
    for damaged in (b"[]", b"{", b'{"x": 1}', b'{"999": "leaf"}', b'{"0": "no class"}'):
        with pytest.raises(UserError, match="load the page again"):
            post(site, "corrections", body=damaged, split="test")


@pytest.fixture(scope="module")
def page(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[chromium.Browser, str]]:
    """A browser, and where the app is."""
    if chromium.PROGRAM is None:
        pytest.skip("there is no Chromium")
    with Server("127.0.0.1", 0, Guard("localhost", ""), site.respond) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium.browser(tmp_path_factory.mktemp("profile")) as browser:
            yield browser, f"http://localhost:{server.server_port}"
        server.shutdown()


def test_a_photo_is_taken_in_the_browser(page, folder):
    browser, place = page
    browser.open(f"{place}/run/spottune/photo")
    browser.choose_file("input[type=file]", folder / "photos" / "leaf" / "03.png")
    browser.wait("document.querySelectorAll('#answer-neighbours img').length == 6")
    assert browser.value("document.querySelectorAll('#answer-map img').length") == 3
    assert browser.value("document.querySelectorAll('#answer-labels .routes li').length") > 0
    assert browser.value("[...document.images].every(image => image.naturalWidth > 0)")
    assert browser.complaints == []


def test_a_run_that_goes_on_is_shown_as_it_goes_on(page, folder):
    browser, place = page
    browser.open(f"{place}/run/going")
    browser.wait("document.body.textContent.includes('1 of 4 epochs')")
    with (folder / "runs" / "going" / "metrics.csv").open("a") as file:
        file.write("2,20,1.0,0.2,1.05,0.18,1.5\n")
    browser.wait("document.body.textContent.includes('2 of 4 epochs')")
    assert browser.complaints == []


def test_labels_are_changed_and_the_trials_played_on_a_phone(page):
    browser, place = page
    browser.open(f"{place}/run/spottune/mistakes", width=390, height=844)
    browser.value(
        "(s => { s.value = 'test'; s.dispatchEvent(new Event('change')) })(document.getElementById('split'))"
    )
    browser.wait("document.querySelectorAll('#mistakes [data-set]').length")
    browser.value("document.querySelector('#mistakes [data-set]').click()")
    browser.wait("document.getElementById('download').textContent == 'Download 1 correction'")
    assert browser.value("document.documentElement.scrollWidth") <= 390
    browser.open(f"{place}/run/autolr/trials", width=390, height=844)
    browser.wait("document.getElementById('told').textContent.includes('trial 1 of 2: rejected')")
    browser.value("document.getElementById('on').click()")
    assert "trial 2 of 2: accepted" in browser.value("document.getElementById('told').textContent")
    assert browser.value("document.documentElement.scrollWidth") <= 390
    assert browser.complaints == []


def test_photos_are_bounded_in_the_browser_too(page, tmp_path):
    browser, place = page
    Image.new("RGB", (4, 4)).save(tmp_path / "large.png")
    with (tmp_path / "large.png").open("ab") as file:
        file.truncate(70_000_000)
    browser.open(f"{place}/run/spottune/photo")
    browser.choose_file("input[type=file]", tmp_path / "large.png")
    browser.wait("document.getElementById('answers').textContent.includes('more than 64 MB')")
