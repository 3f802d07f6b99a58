"""The trackers of a run: those that are asked for and those that it began with, under the ids they gave it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_jax.errors import UserError, readable
from finetune_jax.files import readers
from finetune_jax.files.loggers.aim_repository import Aim
from finetune_jax.files.loggers.mlflow_tracking import MLflow
from finetune_jax.files.loggers.protocol import Beginning, Logger
from finetune_jax.files.loggers.trackio_dashboard import Trackio
from finetune_jax.files.loggers.weights_and_biases import WeightsAndBiases

FILE = "loggers.json"
"""Name in a run directory of the file with the ids."""

_KINDS: Mapping[str, Callable[[Beginning], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
    "aim": Aim,
}


class Loggers:
    """Tells every tracker; one that fails is told nothing more, and the run goes on."""

    def __init__(
        self,
        names: Sequence[str],
        project: str,
        directory: Path,
        flags: Mapping[str, Any],
        write: Callable[[str, str], None],
    ) -> None:
        """Begin, or go on with, the run in each tracker.

        Args:
            names: of those asked for.
            project: that groups runs.
            directory: of the run.
            flags: of the run.
            write: a file of the run directory, by its name.

        Raises:
            UserError: a package is missing, or a tracker refuses.
        """
        self._loggers: dict[str, Logger] = {}
        known = self._known(directory / FILE)
        for name in dict.fromkeys([*names, *known]):
            beginning = Beginning(directory, project, flags, str(known.get(name, "")))
            self._loggers[name] = _open(name, beginning)
        ids = {**known, **{name: logger.id for name, logger in self._loggers.items()}}
        if ids != known:
            write(FILE, json.dumps(ids, indent=2) + "\n")

    @staticmethod
    def _known(file: Path) -> dict[str, Any]:
        if not file.exists():
            return {}
        ids = readers.json_object(file, "delete it, and the run is a new one in every tracker")
        return {name: value for name, value in ids.items() if name in _KINDS}

    def log(self, values: Mapping[str, Any], epoch: int) -> None:
        """Numbers of an epoch; None is left out."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        self._tell(lambda logger: logger.log(numbers, epoch))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run has ended."""
        self._tell(lambda logger: logger.finish(summary))

    def close(self, *, failed: bool) -> None:
        """Let go of all trackers."""
        self._tell(lambda logger: logger.close(failed=failed))
        self._loggers.clear()

    def _tell(self, say: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                say(logger)
            # A tracker that cannot be reached must not cost a run, whatever it raises.
            except Exception as error:
                del self._loggers[name]
                print(f"warning: --loggers={name} is told nothing more: {readable(error)}", file=sys.stderr)


def _open(name: str, beginning: Beginning) -> Logger:
    try:
        return _KINDS[name](beginning)
    except ImportError as error:
        raise UserError(f'--loggers={name} needs the package: pip install "finetune-jax[{name}]"') from error
    # Each tracker has exceptions of its own for a server that is away, an account that is not logged in …
    except Exception as error:
        raise UserError(f"--loggers={name} cannot begin: {readable(error)}") from error
