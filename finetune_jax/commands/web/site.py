"""What the app answers to which address.

Runs and files are looked up by comparing the address with what the catalogue has found; no address becomes a path.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_jax.commands.web.answers import Answer, Request, as_json, html
from finetune_jax.commands.web.server import LARGEST_BODY
from finetune_jax.commands.web.workbench import Workbench
from finetune_jax.config.invocation import as_started
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import pixels
from finetune_jax.errors import UserError, message, readable
from finetune_jax.files.run_directory import RunDirectory, config_of_run
from finetune_jax.reports import app_pages, trial_frames
from finetune_jax.runs import label_check
from finetune_jax.runs.catalogue import Catalogue
from finetune_jax.runs.listing import RunRow
from finetune_jax.runs.photo import PhotoPrediction, Viewer, smaller

_PER_PAGE = 24
_SPLITS = ("validation", "test", "train")
_THUMBNAIL = 320


class Site:
    """The pages over one folder of runs; may be asked from several threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Over what the catalogue finds."""
        self._catalogue = catalogue
        self._workbench = Workbench()

    def respond(self, request: Request) -> Answer:
        """The answer to a request.

        Raises:
            UserError: a sentence for whoever asked.
        """
        runs = self._catalogue.runs()
        match (request.method, *request.path):
            case ("GET", ""):
                return html(
                    app_pages.of_runs(str(self._catalogue.folder.absolute()), runs, self._catalogue.studies())
                )
            case ("GET", "live", "runs"):
                return html(app_pages.list_of_runs(runs, self._catalogue.studies()), stands=True)
            case ("GET", "app.js"):
                return Answer(app_pages.script().encode(), "text/javascript; charset=utf-8", stands=True)
            case ("GET", "file", *parts):
                return self._file("/".join(parts))
            case (_, "run", key, *rest) if key in runs:
                return self._of_run(request, key, runs[key], tuple(rest))
        return html(
            app_pages.stop("No such page", "There is nothing at this address; see the list of runs."), 404
        )

    def _file(self, place: str) -> Answer:
        file = self._catalogue.file(place)
        if file is None:
            return html(app_pages.stop("No such file", "There is no such file of a run or a study."), 404)
        path, kind = file
        kind = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        # Others may have made it: it runs no program here.
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return Answer(path.read_bytes(), kind, headers={"Content-Security-Policy": policy})

    def _of_run(self, request: Request, key: str, row: RunRow, rest: tuple[str, ...]) -> Answer:
        config = _config(row)
        tabs = [name for name in app_pages.TABS if _has(config, name)]
        match (request.method, *rest):
            case ("GET", *parts) if tuple(parts) in app_pages.TABS.values():
                try:
                    return html(as_started(self._page(key, row, config, tabs, tuple(parts))))
                except UserError as error:
                    tab = next(name for name, end in app_pages.TABS.items() if end == tuple(parts))
                    return html(app_pages.stop_in_run(key, tab, tabs, as_started(message(error))), 422)
            case ("GET", "live"):
                state = app_pages.state_of_run(key, row, *self._state(row, config), report=_has_report(row))
                return html(as_started(state), stands=True)
            case ("POST", "photo", "labels"):
                return self._photo(request, row, _labels)
            case ("POST", "photo", "map"):
                number = _number(request.query, "class")
                return self._photo(request, row, lambda viewer, photo: _maps(viewer, photo, number))
            case ("POST", "photo", "neighbours"):
                return self._photo(request, row, _neighbours)
            case ("GET", "mistakes", "list"):
                return self._mistakes(request, row)
            case ("POST", "corrections"):
                return self._corrections(request, row)
            case ("GET", "trials.json"):
                return as_json(trial_frames.frames(RunDirectory(row.path).read_passes()), stands=True)
        return html(app_pages.stop("No such page", "The run has no such page."), 404)

    def _page(
        self, key: str, row: RunRow, config: FinetuneConfig, tabs: Sequence[str], parts: tuple[str, ...]
    ) -> str:
        if parts == ("photo",):
            return self._photo_page(key, row, tabs)
        if parts == ("mistakes",):
            with self._workbench.viewer(row.path) as viewer:
                _require_classifier(viewer)
                return app_pages.of_mistakes(
                    key, tabs, viewer.card.class_names, _SPLITS, task=viewer.card.task
                )
        if parts == ("trials",):
            return app_pages.of_trials(key, tabs)
        return app_pages.of_run(key, row, *self._state(row, config), report=_has_report(row), tabs=tabs)

    def _state(self, row: RunRow, config: FinetuneConfig) -> tuple[Any, dict[str, Any], list[str]]:
        """Rows of ``metrics.csv``, flags and remarks."""
        directory = RunDirectory(row.path)
        summary = directory.summary or {}
        remarks = [*summary.get("notes", []), *summary.get("remarks", [])]
        return directory.read_metrics(), {"epochs": config.epochs}, remarks

    def _photo_page(self, key: str, row: RunRow, tabs: Sequence[str]) -> str:
        with self._workbench.viewer(row.path) as viewer:
            note = "The run finds images of the same class; a photo gets no label."
            if viewer.classifies:
                note = app_pages.what_a_photo_gets(viewer.card.task, viewer.card.class_names)
        return app_pages.for_photos(key, tabs, viewer.explained, note, LARGEST_BODY)

    def _photo(self, request: Request, row: RunRow, answer: Callable[[Viewer, np.ndarray], str]) -> Answer:
        with self._workbench.viewer(row.path) as viewer:
            photo = viewer.read(request.body, readable(request.file_name or "photo", 80))
            return html(answer(viewer, photo))

    def _mistakes(self, request: Request, row: RunRow) -> Answer:
        split = _split(request.query)
        viewer, mistakes = self._workbench.mistakes(row.path, split)
        _require_classifier(viewer)
        page = _number(request.query, "page") or 0
        places = [place for place, _ in mistakes.distant] or [finding.place for finding in mistakes.findings]
        photos = [
            smaller(pixels.shown(mistakes.split.examples.read(place)), _THUMBNAIL)
            for place in places[page * _PER_PAGE : (page + 1) * _PER_PAGE]
        ]
        if mistakes.split.labels.ndim == 2:
            names = [(mistakes.split.examples.names[place], lines) for place, lines in mistakes.distant]
            return html(
                app_pages.list_of_distant(
                    names,
                    photos,
                    task=viewer.card.task,
                    split=split,
                    images=len(mistakes.split.labels),
                    page=page,
                    per_page=_PER_PAGE,
                )
            )
        return html(
            app_pages.list_of_mistakes(
                mistakes.findings,
                photos,
                viewer.card.class_names,
                split=split,
                images=len(mistakes.split.labels),
                right=float((mistakes.split.probabilities.argmax(1) == mistakes.split.labels).mean())
                if len(mistakes.split.labels)
                else 0.0,
                page=page,
                per_page=_PER_PAGE,
            )
        )

    def _corrections(self, request: Request, row: RunRow) -> Answer:
        split = _split(request.query)
        try:
            chosen = {int(number): str(name) for number, name in json.loads(request.body).items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise UserError("these corrections cannot be read; load the page again") from error
        viewer, mistakes = self._workbench.mistakes(row.path, split)
        text = label_check.corrections_csv(mistakes.findings, chosen, viewer.card.class_names, split)
        headers = {"Content-Disposition": f'attachment; filename="corrections-{split}.csv"'}
        return Answer(text.encode("utf-8", "surrogateescape"), "text/csv; charset=utf-8", headers=headers)


def _labels(viewer: Viewer, photo: np.ndarray) -> str:
    prepared = viewer.card.preprocessing
    how = "stretched" if prepared.mode == "stretch" else "in their proportions"
    seen = f"{prepared.image_size} × {prepared.image_size} of them, {how}"
    prediction = viewer.prediction(photo) if viewer.classifies else PhotoPrediction("", [], [])
    return app_pages.photo_labels(pixels.shown(photo), seen, prediction, viewer.routes(photo))


def _maps(viewer: Viewer, photo: np.ndarray, number: int | None) -> str:
    maps = viewer.maps(photo, number)
    of, task = "what the photo is like", viewer.card.task
    if number is not None:
        of = viewer.explained[number]
    elif viewer.classifies:
        name = viewer.predictor.top(photo, 1)[0][0][0]
        of = {"ordinal": "a higher grade", "regression": f"more {viewer.card.class_names[0]}"}.get(task, name)
    return app_pages.photo_maps(maps, of)


def _neighbours(viewer: Viewer, photo: np.ndarray) -> str:
    neighbours = viewer.neighbours(photo)
    return app_pages.photo_neighbours(neighbours, *viewer.gallery_size)


def _require_classifier(viewer: Viewer) -> None:
    if not viewer.classifies:
        raise UserError(
            "The run finds images of the same class and labels none, so it takes none for another one."
        )


def _has(config: FinetuneConfig, tab: str) -> bool:
    """Whether a run can have what a tab shows."""
    if tab == "Mistakes":
        return config.protocol == "classification"
    return tab != "Trials" or config.method == "autolr"


def _has_report(row: RunRow) -> bool:
    return (row.path / "report.html").is_file()


def _config(row: RunRow) -> FinetuneConfig:
    try:
        return config_of_run(row.path, FinetuneConfig)
    except UserError:
        return FinetuneConfig()  # a damaged run is shown as far as it can be read


def _split(query: Mapping[str, Any]) -> str:
    split = str(query.get("split", _SPLITS[0]))
    if split not in _SPLITS:
        raise UserError(f"there is no split of that name, only {', '.join(_SPLITS)}")
    return split


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
