"""Pages of the app: runs and studies as they go on, photos, mistakes, trials. Values in, HTML out."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from finetune_jax.reports import figures, pages
from finetune_jax.reports.figures import curves
from finetune_jax.reports.run_list import Row, duration
from finetune_jax.reports.run_result import Rows
from finetune_jax.reports.tables import Table, is_share, score_text, spoken

_EPOCHS_SHOWN = 12
_THUMBNAIL = 320
_TRUSTED = 0.8
"""Accuracy from which on what a network says against a label means something."""

TABS = {"Overview": (), "Try a photo": ("photo",), "Mistakes": ("mistakes",), "Trials": ("trials",)}
"""``{tab of a run: the end of its address}``."""


def address(key: str, *more: str) -> str:
    """Address of a page of a run; its key is one part of it, slashes and all.

    >>> address("sweep/runs/a b", "photo")
    '/run/sweep%2Fruns%2Fa%20b/photo'
    """
    return "/".join(["/run", quote(key, safe=""), *more])


def file_address(key: str, name: str) -> str:
    """Address of a file in the directory of a run or a study.

    >>> file_address("sweep", "report.html"), file_address(".", "report.html")
    ('/file/sweep/report.html', '/file/report.html')
    """
    return f"/file/{name}" if key == "." else f"/file/{quote(key)}/{quote(name)}"


def of_runs(folder: str, runs: Mapping[str, Row], studies: Sequence[Any]) -> str:
    """The first page.

    Args:
        folder: that is looked at.
        runs: ``{key: run}``.
        studies: see ``runs.catalogue.Study``.
    """
    return pages.render("app_runs.html", title="Runs", tab="runs", folder=folder, **_listed(runs, studies))


def list_of_runs(runs: Mapping[str, Row], studies: Sequence[Any]) -> str:
    """The part of the first page that changes; arguments as of :func:`of_runs`."""
    return pages.render("app_runs_list.html", **_listed(runs, studies))


def of_run(
    key: str,
    row: Row,
    rows: Rows,
    flags: Mapping[str, Any],
    remarks: Sequence[str],
    *,
    report: bool,
    tabs: Sequence[str],
) -> str:
    """How a run stands.

    Args:
        key: of the run.
        row: of the list.
        rows: of ``metrics.csv``.
        flags: its settings.
        remarks: on its result.
        report: whether it has a page of its own.
        tabs: of :data:`TABS`, those that it has.
    """
    return pages.render(
        "app_run.html",
        **_frame(key, "Overview", tabs),
        live=address(key, "live"),
        **_state(key, row, rows, flags, remarks, report),
    )


def state_of_run(
    key: str, row: Row, rows: Rows, flags: Mapping[str, Any], remarks: Sequence[str], *, report: bool
) -> str:
    """The part of :func:`of_run` that changes."""
    return pages.render("app_run_state.html", **_state(key, row, rows, flags, remarks, report))


def for_photos(key: str, tabs: Sequence[str], class_names: Sequence[str], note: str, most: int) -> str:
    """The page that takes photos.

    Args:
        key: of the run.
        tabs: of :data:`TABS`, those that it has.
        class_names: that can be explained.
        note: on the run.
        most: bytes of a file.
    """
    return pages.render(
        "app_photo.html",
        **_frame(key, "Try a photo", tabs),
        place=address(key, "photo"),
        classes=class_names,
        note=note,
        most=most,
    )


def what_a_photo_gets(task: str, names: Sequence[str]) -> str:
    """What a run says of photos, in a sentence.

    >>> what_a_photo_gets("regression", ["light"]), what_a_photo_gets("multilabel", ["red", "blue"])
    ('Of it a number is told: light.', 'It is told which of 2 labels it has; it may have none or several.')
    """
    if task == "regression":
        words = f"{len(names)} numbers are told" if len(names) > 1 else "a number is told"
        return f"Of it {words}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}."
    if task == "multilabel":
        return f"It is told which of {len(names)} labels it has; it may have none or several."
    if task == "ordinal":
        return f"It gets one of {len(names)} grades, {names[0]} to {names[-1]}."
    return f"It is labelled as one of {len(names)} classes."


def photo_labels(photo: np.ndarray, seen: str, prediction: Any, routes: Sequence[Any]) -> str:
    """What a photo is taken for.

    Args:
        photo: uint8 ``[h, w, 3]``.
        seen: how the network sees it.
        prediction: see ``runs.photo.PhotoPrediction``; an empty heading for embeddings.
        routes: see ``runs.explain.Route``.
    """
    return pages.render(
        "app_photo_labels.html",
        source=pages.image(photo),
        small=pages.is_small(photo),
        height=photo.shape[0],
        width=photo.shape[1],
        seen=seen,
        prediction=prediction,
        routes=routes,
    )


def photo_maps(maps: Mapping[str, np.ndarray], of: str) -> str:
    """Where the network looks: ``{block: uint8 [h, w, 3]}``, and what for."""
    sources = [(name, pages.image(picture)) for name, picture in maps.items()]
    return pages.render("app_photo_map.html", maps=sources, of=of)


def photo_neighbours(neighbours: Sequence[Any], compared: int, of: int) -> str:
    """Training images that are like the photo, see ``runs.photo.Neighbour``; how many of how many were compared."""
    cards = [
        {
            "source": pages.image(one.photo, most=_THUMBNAIL),
            "small": pages.is_small(one.photo),
            "label": one.label,
            "similarity": one.similarity,
            "name": one.name,
        }
        for one in neighbours
    ]
    return pages.render("app_photo_neighbours.html", neighbours=cards, compared=compared, all=of)


def of_mistakes(
    key: str, tabs: Sequence[str], class_names: Sequence[str], splits: Sequence[str], *, task: str
) -> str:
    """The page of what a run gets wrong; ``tabs`` as of :func:`of_run`, ``task`` that of the run."""
    return pages.render(
        "app_mistakes.html",
        **_frame(key, "Mistakes", tabs),
        place=address(key, "mistakes", "list"),
        corrections=address(key, "corrections"),
        classes=class_names,
        splits=splits,
        task=task,
    )


def list_of_mistakes(
    findings: Sequence[Any],
    photos: Sequence[np.ndarray],
    class_names: Sequence[str],
    *,
    split: str,
    images: int,
    right: float,
    page: int,
    per_page: int,
) -> str:
    """One page of the images that a run takes for another class.

    Args:
        findings: all of them, see ``runs.label_check.Finding``.
        photos: uint8 ``[h, w, 3]`` of those on the page.
        class_names: of the run.
        split: name of the split.
        images: how many it has.
        right: share of them that are taken for their label.
        page: from 0.
        per_page: how many are shown.
    """
    shown = findings[page * per_page : (page + 1) * per_page]
    cards = [
        {
            "number": finding.number,
            "source": pages.image(photo, most=_THUMBNAIL),
            "small": pages.is_small(photo),
            "label": class_names[finding.label],
            "predicted": class_names[finding.predicted],
            "label_chance": finding.label_chance,
            "chance": finding.chance,
            "name": finding.name,
            "suspected": finding.suspected,
        }
        for finding, photo in zip(shown, photos, strict=True)
    ]
    return pages.render(
        "app_mistakes_list.html",
        cards=cards,
        suspected=sum(finding.suspected for finding in findings),
        wrong=len(findings),
        images=f"{images:,}",
        split=split,
        right=right,
        weak=images > 0 and right < _TRUSTED,
        page=page,
        pages=-(-len(findings) // per_page),
    )


def list_of_distant(
    distant: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    photos: Sequence[np.ndarray],
    *,
    task: str,
    split: str,
    images: int,
    page: int,
    per_page: int,
) -> str:
    """One page of the images of which a run says other labels, or numbers far from the true ones.

    Args:
        distant: name of the image, and ``(kind, text)`` of what is said and what is true; all of them.
        photos: uint8 ``[h, w, 3]`` of those on the page.
        task: of the run.
        split: name of the split.
        images: how many it has.
        page: from 0.
        per_page: how many are shown.
    """
    shown = distant[page * per_page : (page + 1) * per_page]
    cards = [
        {
            "source": pages.image(photo, most=_THUMBNAIL),
            "small": pages.is_small(photo),
            "lines": lines,
            "name": name,
        }
        for (name, lines), photo in zip(shown, photos, strict=True)
    ]
    summary = f"{len(distant)} of {images:,} {split} images have a label too many or too few"
    if task == "regression":
        summary = f"{images:,} {split} images, those first whose numbers are furthest from the true ones"
    pages_there = -(-len(distant) // per_page)
    return pages.render("app_distant_list.html", cards=cards, summary=summary, page=page, pages=pages_there)


def of_trials(key: str, tabs: Sequence[str]) -> str:
    """The page of AutoLR's trials; ``tabs`` as of :func:`of_run`."""
    return pages.render("app_trials.html", **_frame(key, "Trials", tabs), place=address(key, "trials.json"))


def problem(message: str) -> str:
    """A sentence in the place of an answer."""
    return pages.render("app_problem.html", message=message)


def stop(title: str, message: str) -> str:
    """A sentence in the place of a page."""
    return pages.render("app_stop.html", title=title, tab="", message=message)


def script() -> str:
    """The program of the pages, JavaScript."""
    return pages.source("app.js")


def stop_in_run(key: str, tab: str, tabs: Sequence[str], message: str) -> str:
    """A sentence in the place of a page of a run; arguments as of :func:`of_run`."""
    return pages.render("app_stop.html", **_frame(key, tab, tabs), message=message)


def _frame(key: str, tab: str, tabs: Sequence[str]) -> dict[str, Any]:
    addresses = [(name, address(key, *parts)) for name, parts in TABS.items() if name in tabs]
    return {"title": f"{key}: {tab.lower()}", "tab": tab, "run": key, "tabs": addresses}


def _listed(runs: Mapping[str, Row], studies: Sequence[Any]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "name": key,
                "page": address(key),
                "state": row.state,
                "finished": row.state == "finished",
                "score": "–" if row.score is None else _score(row.score_name, row.score),
                "of": spoken(row.score_name),
                "method": row.method,
                "network": row.network or row.pretrained,
                "data": row.dataset,
                "age": f"{duration(row.age)} ago",
                "size": f"{row.bytes / 1e6:.1f} MB",
            }
            for key, row in sorted(runs.items(), key=lambda item: item[1].age)
        ],
        "studies": [
            {
                "key": study.key,
                "page": file_address(study.key, "report.html") if study.has_page else "",
                "runs": study.runs,
                "finished": study.finished,
                "best": "–" if study.best is None else _score(study.best_score, study.best),
                "best_run": study.best_run,
                "best_page": address(study.best_run),
            }
            for study in studies
        ],
    }


def _state(
    key: str, row: Row, rows: Rows, flags: Mapping[str, Any], remarks: Sequence[str], report: bool
) -> dict[str, Any]:
    epochs, finished = int(flags.get("epochs", 0)), row.state == "finished"
    score = row.score_name.partition("_")[2]
    score_label = (
        f"{spoken(row.score_name)} {_score(row.score_name, row.score)}" if row.score is not None else ""
    )
    share = None if finished or not epochs else len(rows) / epochs
    panels = [
        pages.inline(figures.draw_training_curves(rows, None, score, only=name))
        for name in (curves.measured(rows, score) if rows else ())
    ]
    return {
        "status": f"Finished: {score_label}"
        if finished
        else f"{row.state[:1].upper()}{row.state[1:]}" + (f", {score_label}" if score_label else ""),
        "share": share,
        "done": f"{len(rows)} of {epochs} epochs",
        "finished": finished,
        "remarks": remarks,
        "report": file_address(key, "report.html") if report else "",
        "panels": panels,
        "epochs": _epochs(rows),
        "command": "" if finished else f"finetune-jax resume {row.path}",
    }


def _epochs(rows: Rows) -> Table | None:
    """The latest epochs; rates and norms of single parts, and what says nothing here, are left to the report."""
    if not rows:
        return None
    tuned = any(row.get("trials", "1") not in ("", "1") for row in rows)
    idle = {"step", *(() if tuned else ("sorting_quality", "trials"))}
    names = [name for name in rows[0] if "/" not in name and name not in idle]
    cells = [[_cell(name, row[name]) for name in names] for row in rows[::-1][:_EPOCHS_SHOWN]]
    return Table([spoken(name) for name in names], cells)


def _score(name: str, value: float) -> str:
    return score_text(name, value).replace(" ", "\N{NO-BREAK SPACE}")


def _cell(name: str, text: str) -> str:
    if name.startswith(("train_", "validation_", "test_")) and is_share(name) and text:
        return _score(name, float(text))
    return f"{float(text):.4g}" if "." in text else text
