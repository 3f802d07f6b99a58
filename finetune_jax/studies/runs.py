"""The runs of a study, each in a directory of its own, none of them trained twice."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from finetune_jax import finetuning
from finetune_jax.config import FinetuneConfig
from finetune_jax.errors import Diverged, UserError
from finetune_jax.parallel import Replicas
from finetune_jax.run_directory import RunDirectory


class Runs:
    """Trains configs below one directory; a run that has ended, well or not, only tells how.

    Calling it gives the summary of a run.
    """

    def __init__(self, root: Path, replicas: Replicas) -> None:
        """Use ``root`` for runs and results; it is created with the first of them."""
        self.root = root
        self.replicas = replicas
        self._directories: dict[FinetuneConfig, str] = {}
        self._kept_as: dict[str, str] = {}

    @property
    def is_primary(self) -> bool:
        """Whether this process writes and prints."""
        return self.replicas.is_primary

    def __call__(self, config: FinetuneConfig, name: str) -> Mapping[str, Any]:
        """Train a config, or go on with it; one that this study has trained before is not trained again.

        Args:
            config: of the run, but for its directory.
            name: of its directory below the root, parts separated by ``/``. An equal config that came earlier
                has given its own name to the only directory of both.

        Raises:
            Diverged: it did, now or before.
            UserError: something else is wrong.
        """
        self._kept_as[name] = self._directories.setdefault(config, name)
        name = self._kept_as[name]
        workdir = self.root / "runs" / name
        note = workdir / "diverged.txt"
        if note.exists():
            raise Diverged(note.read_text().strip())
        finished = (workdir / "summary.json").exists()
        if self.replicas.is_primary and not finished:
            print(f"{name}:", file=sys.stderr)
        try:
            summary = finetuning.run(dataclasses.replace(config, workdir=str(workdir)), self.replicas)
        except Diverged as error:
            if self.replicas.is_primary:
                workdir.mkdir(parents=True, exist_ok=True)
                note.write_text(f"{error}\n")
                print(f"{name}: {error}", file=sys.stderr)
            raise
        if not finished:
            # JAX keeps every compiled program, about 100 MB a run; the next run has functions of its own.
            jax.clear_caches()
        return summary

    def passes(self, name: str) -> list[dict[str, str]]:
        """Rows of a run's ``passes.csv``."""
        return RunDirectory(self.root / "runs" / self._kept_as.get(name, name)).read_passes()

    def write(self, name: str, content: str | bytes) -> None:
        """Write a result beside the runs, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        if not self.replicas.is_primary:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary = self.root / f".{name}.tmp"
            temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
            temporary.replace(self.root / name)
        except OSError as error:
            raise UserError(f"{self.root / name} cannot be written: {error.strerror}") from error

    def write_json(self, name: str, content: Any) -> None:
        """:meth:`write` a JSON document."""
        self.write(name, json.dumps(content, indent=2) + "\n")
