"""The page of a run: what stands on it while the run goes on and when it has ended."""

import dataclasses
import html.parser
import re
from types import SimpleNamespace

import numpy as np
import pytest

from finetune_jax.algorithms import retrieval
from finetune_jax.algorithms.uncertainty import wilson_interval
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.reports import class_scores, examples, run_figures, run_page
from finetune_jax.reports.run_result import Classified, Retrieved, RunResult
from finetune_jax.reports.tables import between

NAMES = ("cat", "dog", "<i>bird</i>")
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.10, 0.80, 0.10],  # a cat taken for a dog
        [0.50, 0.30, 0.20],
        [0.02, 0.97, 0.01],
        [0.05, 0.93, 0.02],
        [0.95, 0.03, 0.02],  # the most confident mistake: a bird taken for a cat
        [0.20, 0.20, 0.60],
        [0.30, 0.30, 0.40],  # the least sure right answer
        [0.10, 0.10, 0.80],
    ]
)
ROWS = [
    {
        "epoch": "1",
        "step": "4",
        "train_loss": "0.123456789",
        "train_accuracy": "0.5",
        "validation_accuracy": "0.25",
    },
    {"epoch": "2", "step": "8", "train_loss": "0.1", "train_accuracy": "0.75", "validation_accuracy": "0.5"},
]
SUMMARY = {
    "method": "standard",
    "dataset": "folder:<b>",
    "classes": 3,
    "score": "test_accuracy",
    "test_accuracy": 7 / 9,
    "test_balanced_accuracy": 0.75,
    "test_loss": 0.5,
    "seconds": 3.0,
    "best_epoch": 2,
    "epochs_trained": 2,
    "selected_on": "validation",
    "images": {"train": 10, "test": 9},
    "notes": ["validation: none & more"],
}


def photo(value, size=200):
    return np.full((size, size, 3), value, np.uint8)


def result_of(**more):
    images = np.stack([photo(20 * place, 8) for place in range(9)])
    values = {
        "flags": dataclasses.asdict(FinetuneConfig(dataset="folder:<b>", epochs=2, seed=7)),
        "score": "accuracy",
        "rows": ROWS,
        "passes": [],
        "summary": SUMMARY,
        "test": Classified(
            np.log(PROBABILITIES),
            LABELS,
            NAMES,
            [f"photos/{n}.jpg" for n in range(9)],
            images,
            {5: photo(99)},
        ),
        "seen": {"pixels": "32 × 32, stretched", "images": "10 train, 9 test"},
        "training_images": images[:3],
        "command": "finetune-jax finetune --dataset=folder:<b>",
        "versions": {"jax": "0.10.2"},
        "data_digest": "1f3b",
    }
    return RunResult(**(values | more))


def page_of(**more):
    return run_page.files(result_of(**more))["report.html"].decode()


@pytest.fixture(scope="module")
def page():
    return page_of()


class Tags(html.parser.HTMLParser):
    """Text of the page by the heading it stands under, and the tags that were left open."""

    VOID = ("meta", "img", "br", "link", "path", "use", "image", "rect", "line", "circle")

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.heading = [], {"": ""}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        if self.open and self.open[-1] == "h2":
            self.heading = data
        self.sections[self.heading] = f"{self.sections.get(self.heading, '')} {data}"


def sections(page):
    tags = Tags(page)
    assert tags.open == []
    return {name: " ".join(text.split()) for name, text in tags.sections.items()}


def test_the_page_is_whole_html_without_network_and_escapes_names(page):
    found = sections(page)
    assert "folder:<b>, fine-tuned (standard)" in found[""]
    assert "validation: none & more" in found[""]
    assert "<i>bird" not in page
    assert "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]', page)
    assert '<meta name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_scores_are_percent_with_their_intervals(page):
    text = sections(page)[""]
    assert f"Test accuracy 77.78 % of 9 images (95 %: {between(wilson_interval(7, 9))})" in text
    assert f"{between(wilson_interval(7, 9))} (Wilson)" in text
    assert re.search(r"test balanced accuracy 75.00 % \d+\.\d\d to \d+\.\d\d % \(bootstrap\)", text)
    assert "test loss 0.5000" in text


def test_what_was_seen_the_command_and_changed_settings_stand_on_the_page(page):
    found = sections(page)
    assert "pixels 32 × 32, stretched images 10 train, 9 test" in found["What the network saw"]
    assert found["Command"].startswith("Command finetune-jax finetune --dataset=folder:<b>")
    assert "jax 0.10.2; digest of the images 1f3b" in found["Command"]
    changed, others = found["Details"].split("The other")
    assert "--seed 7 0" in changed
    assert "--momentum" in others
    assert "--momentum" not in changed


def test_mistakes_come_with_names_and_probabilities_the_most_confident_first(page):
    wrong = sections(page)["Most confident mistakes"]
    first, second = wrong.index("cat 95.00\xa0%".replace("\xa0", " ")), wrong.index("dog 80.00 %")
    assert first < second
    assert "true: <i>bird</i> 2.00 % 5.jpg" in wrong
    assert "true: cat 10.00 % 1.jpg" in wrong
    right = sections(page)["Least sure right answers"]
    assert right.index("<i>bird</i> 40.00 %") < right.index("cat 50.00 %")
    assert page.count('src="data:image/jpeg') == 1  # the only photo at full resolution
    # A batch, those beside the photo, right answers, and the two images of the confused pairs.
    assert page.count('src="data:image/png') == 3 + 1 + 6 + 2


def test_recalls_are_sorted_and_confusions_named(page):
    found = sections(page)
    recalls = found["Recall per class"]
    low, middle, high = (
        recalls.index(text) for text in ("cat 3 66.67 %", "<i>bird</i> 4 75.00 %", "dog 2 100.00 %")
    )
    assert low < middle < high
    assert between(wilson_interval(2, 3)) in recalls
    confusions = found["Confusions"]
    assert "cat dog 1 of 3" in confusions
    assert "cat, taken for dog: 1 of 3" in confusions  # the tooltip of the cell
    assert "Expected calibration error" in found["Calibration"]


def test_a_run_that_goes_on_has_a_page_of_its_epochs_that_refreshes_itself():
    files = run_page.files(result_of(summary=None, test=None))
    assert list(files) == ["report.html"]
    page = files["report.html"].decode()
    assert '<meta http-equiv="refresh" content="10">' in page
    text = sections(page)[""]
    assert "Epoch 2 of 2 is done, train accuracy 75.00 %, validation accuracy 50.00 %" in text
    found = sections(page_of(summary=None, test=None, rows=[], training_images=None, seen={}))
    assert "Epoch 1 of 2 goes on" in found[""]
    assert not {"Training", "What the network saw", "Confusions", "Recall per class"} & found.keys()
    assert "refresh" not in page_of().split("<style>")[0]


def test_nothing_that_was_not_measured_has_an_empty_chart():
    rows = [{"epoch": "1", "train_loss": "2.0", "validation_loss": ""}]
    page = page_of(summary=None, test=None, rows=rows, score="recall_at_1")
    assert page.count("<svg") == 1
    assert page.count("<svg") < page_of(summary=None, test=None).count("<svg")


def test_map_at_r_has_an_interval_over_the_queries():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10).astype(np.int32)
    embeddings = rng.normal(size=(40, 8)) + 2 * np.eye(8)[labels]
    images = SimpleNamespace(labels=labels, images=np.zeros((40, 8, 8, 3), np.uint8))
    value = retrieval.map_at_r(embeddings, labels)
    summary = {**SUMMARY, "score": "test_map_at_r", "test_map_at_r": value, "images": {"test": 40}}
    page = page_of(test=Retrieved(embeddings, images, (*NAMES, "eel")), summary=summary, score="map_at_r")
    low, high = map(float, re.search(r"([\d.]+) to ([\d.]+) % \(bootstrap over the queries\)", page).groups())
    spread = 1.96 * retrieval.average_precisions(embeddings, labels).std() / 40**0.5
    assert low == pytest.approx(100 * (value - spread), abs=3)
    assert high == pytest.approx(100 * (value + spread), abs=3)


def test_figures_are_written_in_the_formats_that_are_asked_for():
    files = run_page.files(result_of(formats=("svg", "pdf")))
    assert {"training.svg", "training.pdf", "confusion.svg", "confusion.pdf", "classes.csv"} <= files.keys()
    assert not [name for name in files if name.endswith(".png")]
    assert files == run_page.files(result_of(formats=("svg", "pdf")))  # the same bytes every time


def passes(*, threshold, rates):
    rows = []
    for epoch in (1, 2):
        row = {"epoch": str(epoch), "trial": "1", "accepted": str(epoch - 1), "threshold": threshold}
        for block, rate in enumerate(rates, 1):
            row |= {f"rate/block_{block:02d}": str(rate), f"variation/block_{block:02d}": "0.1"}
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("threshold", "rates", "shown"),
    [("", (0.1, 0.1), False), ("", (0.1, 0.2), True), ("0.9", (0.1, 0.1), True)],
)
def test_variations_are_on_the_page_only_where_they_say_something(threshold, rates, shown):
    rows = passes(threshold=threshold, rates=rates)
    names = [picture.name for picture in run_figures.of_blocks(rows)]
    assert names == (["trials", "variations"] if threshold else ["variations"])
    found = sections(page_of(passes=rows))
    assert ("Blocks" in found) == shown


def test_notable_images_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 4)), generator.integers(4, size=50)
    chosen = examples.notable(logits, labels, mistakes=5, unsure=3)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = [i for i in range(50) if chances[i].argmax() != labels[i]]
    right = [i for i in range(50) if chances[i].argmax() == labels[i]]
    assert chosen.mistakes.tolist() == sorted(wrong, key=lambda i: -chances[i].max())[:5]
    assert chosen.unsure.tolist() == sorted(right, key=lambda i: chances[i].max())[:3]


def test_classes_are_the_same_numbers_for_programs():
    matrix = class_scores.matrix_of(np.log(PROBABILITIES), LABELS, NAMES)
    lines = class_scores.classes_csv(class_scores.by_recall(matrix, NAMES)).splitlines()
    assert lines[0] == "class,images,recall,recall_low,recall_high,most_often_taken_for"
    assert [line.split(",")[0] for line in lines[1:]] == ["cat", "<i>bird</i>", "dog"]
    assert lines[1].endswith(",dog")
    worst = class_scores.worst_confusions(matrix, NAMES)
    assert [(pair.true, pair.predicted, pair.mistaken) for pair in worst] == [
        ("cat", "dog", 1),
        ("<i>bird</i>", "cat", 1),
    ]
