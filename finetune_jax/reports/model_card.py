"""The model card of a run: what the network is, what it was trained on, how good it is, in Markdown for people.

M. Mitchell et al., "Model Cards for Model Reporting" (2019). The header is that of the Hugging Face hub.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_jax.errors import readable
from finetune_jax.reports import tables
from finetune_jax.reports.tables import Table

_MOST_CLASSES = 200
_LEFT_OUT = ("dataset", "workdir", "image_root", "cache_dir", "data_dir", "compilation_cache")
"""Settings that name places on the machine of the run."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card is made of.

    Attributes:
        name: of the model.
        summary: of the run.
        card: of its checkpoint, as JSON.
        settings: of the run that differ from the defaults, ``{name: value}``.
        files: names of the files that come with the card, each with what it is.
        versions: of the libraries of the run.
        recall: per class of the test images, with their number; empty where nobody counted.
    """

    name: str
    summary: Mapping[str, Any]
    card: Mapping[str, Any]
    settings: Mapping[str, Any]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recall: Sequence[tuple[str, int, float]] = ()


def markdown(facts: Facts) -> str:
    """The whole card."""
    summary, prepared = facts.summary, facts.card["preprocessing"]
    classes = list(facts.card["class_names"])
    images = ", ".join(f"{count:,} {split}" for split, count in summary["images"].items() if count)
    side = prepared["image_size"]
    mode = "stretched to" if prepared["mode"] == "stretch" else "resized with the shorter side to"
    cut = "" if prepared["resize"] == side else f", of which the middle {side} × {side} are seen"
    sections = {
        "": f"{_task(summary)} by a {summary['network']} (`{summary['method']}`, starting from "
        f"{_code(summary['pretrained'])}), trained with finetune_jax.",
        "Results": _results(summary) + ("\n\n" + tables.as_markdown(_recall(facts)) if facts.recall else ""),
        "Intended use": f"{_task(summary)} for images like those it was trained on. It answers with one of its classes "
        "whatever it is shown, and its probabilities are those of such images: look at your own before you rely on it.",
        "Classes": _listed(classes),
        "Data": f"{_code(_data_name(summary['dataset']))}: {images} images"
        + (f", digest `{summary['data_digest']}`" if summary.get("data_digest") else "")
        + "."
        + "".join(f"\n- {_shown(note)}" for note in summary.get("notes", [])),
        "Preprocessing": f"{_kind_of_images(prepared)} of 0 to 255, {mode} {prepared['resize']} pixels (bicubic, "
        f"antialiased){cut}; mean "
        f"{_numbers(facts.card['mean'])} and deviation {_numbers(facts.card['std'])} of values scaled to [0, 1].",
        "Training": f"{summary['epochs_trained']} epochs, the one chosen on {summary['selected_on']} is "
        f"{summary['best_epoch']}; {summary['parameters_trained']:,} of {summary['parameters']:,} parameters trained; "
        f"{summary['seconds']:.0f} s on {summary['devices']} device(s)."
        + ("\n\n" + tables.as_markdown(_settings(facts)) if facts.settings else ""),
        "Files": "\n".join(f"- {_code(name)}: {_shown(what)}" for name, what in facts.files.items()),
        "Made with": ", ".join(f"{library} {version}" for library, version in facts.versions.items()),
    }
    body = [f"# {_shown(facts.name)}", sections.pop("")]
    body += [f"## {title}\n\n{content}" for title, content in sections.items() if content]
    return header(facts) + "\n" + "\n\n".join(body) + "\n"


def header(facts: Facts) -> str:
    """The metadata that the hub reads, YAML between two lines of dashes."""
    summary = facts.summary
    task = "image-classification" if summary["protocol"] == "classification" else "image-feature-extraction"
    metrics = [
        {"type": name.removeprefix("test_"), "value": round(float(value), 6), "name": tables.spoken(name)}
        for name, value in _scores(summary).items()
    ]
    index = {
        "name": facts.name,
        "results": [
            {
                "task": {"type": task},
                "dataset": {"name": _data_name(summary["dataset"]), "type": "image", "split": "test"},
                "metrics": metrics,
            }
        ],
    }
    # JSON is YAML, and needs no rules of quoting of its own.
    values = {
        "library_name": "finetune_jax",
        "pipeline_tag": task,
        "tags": ["jax", "flax", summary["network"]],
        "model-index": [index],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _kind_of_images(prepared: Mapping[str, Any]) -> str:
    channels = prepared.get("channels", 3)
    return {1: "Grey images", 3: "RGB images"}.get(channels, f"Images of {channels} channels")


def _task(summary: Mapping[str, Any]) -> str:
    kinds = {
        "multilabel": "Several labels per image",
        "ordinal": "Grades of images",
        "regression": "Numbers from images",
    }
    plain = (
        "Image classification" if summary["protocol"] == "classification" else "Image retrieval by embeddings"
    )
    return kinds.get(str(summary.get("task")), plain)


def _scores(summary: Mapping[str, Any]) -> dict[str, float]:
    scores = {
        name: value
        for name, value in summary.items()
        if name.startswith("test_") and isinstance(value, int | float) and not isinstance(value, bool)
    }
    first = {summary["score"]: scores[summary["score"]]}
    return {**first, **scores}


def _results(summary: Mapping[str, Any]) -> str:
    rows = []
    images = summary["images"].get("test")
    for name, value in _scores(summary).items():
        ends = tables.interval_of(name, value, images) or summary.get("intervals", {}).get(name)
        interval = "–" if ends is None else tables.ends_text(name, ends)
        rows.append([tables.spoken(name), tables.score_text(name, value), interval])
    return tables.as_markdown(Table(["score", f"of {images or 0:,} test images", "95 % interval"], rows))


def _recall(facts: Facts) -> Table:
    rows = [[_shown(name), count, tables.percent(recall)] for name, count, recall in facts.recall]
    return Table(["class", "test images", "recall"], rows)


def _settings(facts: Facts) -> Table:
    shown = {name: value for name, value in facts.settings.items() if name not in _LEFT_OUT}
    return Table(["setting", "value"], [[_code(f"--{name}"), _shown(value)] for name, value in shown.items()])


def _data_name(dataset: str) -> str:
    """A data set's name without the folders of the machine that it lies on."""
    kind, separator, rest = dataset.partition(":")
    if kind in ("folder", "csv") and separator:
        return f"{kind}:{rest.rstrip('/').rpartition('/')[2]}"
    return dataset


def _listed(classes: Sequence[str]) -> str:
    more = ", …" if len(classes) > _MOST_CLASSES else ""
    return f"{len(classes):,}: {', '.join(map(_code, classes[:_MOST_CLASSES]))}{more}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _code(text: Any) -> str:
    return f"`{_plain(text).replace('`', chr(39))}`"


def _shown(text: Any) -> str:
    """A text that may come from file names, without what Markdown and HTML take for their own."""
    plain = _plain(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]#|" else letter for letter in plain)


def _plain(text: Any) -> str:
    shown = ",".join(map(str, text)) if isinstance(text, tuple | list) else str(text)
    return readable(shown, 200)
