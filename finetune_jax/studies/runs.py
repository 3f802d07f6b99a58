"""The runs of a study, each in a directory of its own, none of them trained twice."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, Pruned, UserError
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.files.whole_file import replace_whole
from finetune_jax.runs import finetune, recorded_data
from finetune_jax.studies.progress import Progress
from finetune_jax.training.plan import AfterEpoch

_DIVERGED = "diverged.txt"


class Runs:
    """Trains configs below one directory; a run that has ended, well or not, only tells how.

    Calling it gives the summary of a run.
    """

    def __init__(self, root: Path, replicas: Replicas) -> None:
        """Use ``root`` for runs and results; it is created with the first of them."""
        self.root = root
        self.replicas = replicas
        self.progress = Progress()
        self.announces_runs = False
        """Whether the study says by itself which run begins."""
        self._printed_lines: set[str] = set()
        self._directories: dict[FinetuneConfig, str] = {}
        self._kept_as: dict[str, str] = {}
        self._with_same_data: dict[tuple[Any, ...], Path | None] = {}

    @property
    def is_primary(self) -> bool:
        """Whether this process writes and prints."""
        return self.replicas.is_primary

    def __call__(
        self, config: FinetuneConfig, name: str, after_epoch: AfterEpoch | None = None
    ) -> Mapping[str, Any]:
        """Train a config, or go on with it; one that this study has trained before is not trained again.

        Args:
            config: of the run, but for its directory.
            name: of its directory below the root, parts separated by ``/``. An equal config that came earlier
                has given its own name to the only directory of both.
            after_epoch: called with the row of each epoch of a run that has not ended, first those from before
                this start; what it raises ends the run.

        Raises:
            Diverged: it did, now or before.
            UserError: something else is wrong.
        """
        config, name, finished = self._begin(config, name, after_epoch)
        if self.replicas.is_primary and not finished and not self.announces_runs:
            print(self.progress.line() if self.progress.label else f"{name}:", file=sys.stderr)
        start = time.monotonic()
        try:
            summary = finetune.run(
                config, self.replicas, after_epoch, printed_lines=self._printed_lines, **self._beside(config)
            )
            if not finished:
                self.progress.trained(time.monotonic() - start)
            return summary
        except Diverged as error:
            self._note(error, name)
            raise
        finally:
            if not finished:
                # JAX keeps every compiled program, about 100 MB a run; the next run has functions of its own.
                jax.clear_caches()

    def together(
        self,
        configs: Sequence[FinetuneConfig],
        names: Sequence[str],
        after_epochs: Sequence[AfterEpoch | None],
    ) -> list[Mapping[str, Any] | Diverged | Pruned]:
        """Train configs that differ in ``config.settings.RUNTIME_SETTINGS`` at once, compiling once.

        Args:
            configs: of the runs.
            names: of their directories.
            after_epochs: of each run, as for a single one.

        Returns:
            The summary of each run, or why it has none.

        Raises:
            UserError: something else is wrong.
        """
        outcomes_by_name: dict[str, Mapping[str, Any] | Diverged | Pruned] = {}
        begun: dict[str, FinetuneConfig] = {}
        callbacks: dict[str, AfterEpoch | None] = {}
        for config, name, after_epoch in zip(configs, names, after_epochs, strict=True):
            try:
                config, name, _ = self._begin(config, name, after_epoch)
            except (Diverged, Pruned) as ended:
                outcomes_by_name[self._kept_as[name]] = ended
            else:
                begun[name], callbacks[name] = config, after_epoch
        if begun:
            if self.replicas.is_primary and not self.announces_runs:
                print(f"{', '.join(begun)}:", file=sys.stderr)
            try:
                outcomes = finetune.train_in_lockstep(
                    list(begun.values()),
                    self.replicas,
                    after_epochs=list(callbacks.values()),
                    **self._beside(next(iter(begun.values()))),
                )
            finally:
                jax.clear_caches()
            for name, outcome in zip(begun, outcomes, strict=True):
                outcomes_by_name[name] = outcome
                if isinstance(outcome, Diverged):
                    self._note(outcome, name)
        return [outcomes_by_name[self._kept_as[name]] for name in names]

    def _begin(
        self, config: FinetuneConfig, name: str, after_epoch: AfterEpoch | None
    ) -> tuple[FinetuneConfig, str, bool]:
        """The config in its directory, the name of that, and whether the run has ended there."""
        self._kept_as[name] = self._directories.setdefault(config, name)
        name = self._kept_as[name]
        workdir = self.root / "runs" / name
        note = workdir / _DIVERGED
        if note.exists():
            raise Diverged(note.read_text().strip())
        finished = (workdir / "summary.json").exists()
        if after_epoch is not None:
            for row in RunDirectory(workdir).read_metrics():
                # A run that has ended was not pruned when others stood where they stood then.
                with contextlib.suppress(*([Pruned] if finished else [])):
                    after_epoch(row)
        return dataclasses.replace(config, workdir=str(workdir)), name, finished

    def _beside(self, config: FinetuneConfig) -> dict[str, Any]:
        """``beside`` of :func:`finetune.run`: a run of this study with the same data, looked for once."""
        key = tuple(getattr(config, name) for name in recorded_data.DRAWING)
        if self._with_same_data.get(key) is None:
            self._with_same_data[key] = recorded_data.beside(self.root / "runs", config)
        path = self._with_same_data[key]
        return {} if path is None else {"beside": path}

    def _note(self, error: Diverged, name: str) -> None:
        if self.replicas.is_primary:
            workdir = self.root / "runs" / name
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / _DIVERGED).write_text(f"{error}\n")
            print(f"{name}: {error}", file=sys.stderr)

    def has_ended(self, name: str) -> bool:
        """Whether a run needs no more training, because it has ended or diverged."""
        workdir = self.root / "runs" / name
        return any((workdir / file).exists() for file in ("summary.json", _DIVERGED))

    def passes(self, name: str) -> list[dict[str, str]]:
        """Rows of a run's ``passes.csv``."""
        return RunDirectory(self.root / "runs" / self._kept_as.get(name, name)).read_passes()

    def summary(self, name: str) -> Mapping[str, Any] | None:
        """Of a run that has ended; None where there is none here."""
        return RunDirectory(self.root / "runs" / self._kept_as.get(name, name)).summary

    def read(self, name: str, file: str) -> bytes:
        """A file of a run that has ended.

        Raises:
            UserError: it is gone.
        """
        path = self.root / "runs" / self._kept_as.get(name, name) / file
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read: {error.strerror}; remove summary.json beside it, and the same command "
                "writes it anew"
            ) from error

    def pages(self) -> dict[str, str]:
        """``{name of a run: where its page lies, relative to the study}`` of those that have one."""
        names = sorted(set(self._kept_as.values()))
        places = {name: f"runs/{name}/report.html" for name in names}
        return {name: place for name, place in places.items() if (self.root / place).exists()}

    def write(self, name: str, content: str | bytes) -> None:
        """Write a result beside the runs, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        if not self.replicas.is_primary:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            replace_whole(self.root / name, content if isinstance(content, bytes) else content.encode())
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be written: {error.strerror}") from error

    def write_files(self, files: Mapping[str, str | bytes]) -> None:
        """:meth:`write` every file of a report, ``{name: content}``."""
        for name, content in files.items():
            self.write(name, content)
