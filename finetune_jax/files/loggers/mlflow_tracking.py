"""MLflow. Where it keeps runs is ``MLFLOW_TRACKING_URI``."""

from collections.abc import Mapping
from typing import Any

from finetune_jax.files.loggers.protocol import Beginning, scalars

_LONGEST = 500  # characters of a parameter
_AT_ONCE = 100  # parameters of a call


class MLflow:
    """See ``protocol.Logger``."""

    def __init__(self, beginning: Beginning) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if beginning.known_as:
            self.id = beginning.known_as
            self._client.update_run(self.id, status="RUNNING")
        else:
            experiment = self._client.get_experiment_by_name(beginning.project)
            number = (
                experiment.experiment_id if experiment else self._client.create_experiment(beginning.project)
            )
            self.id = str(self._client.create_run(number, run_name=beginning.name).info.run_id)
            params = [Param(name, str(value)[:_LONGEST]) for name, value in beginning.flags.items()]
            for start in range(0, len(params), _AT_ONCE):
                self._client.log_batch(self.id, params=params[start : start + _AT_ONCE])
        self._ended = False

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See the protocol."""
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(
            self.id, metrics=[Metric(name, value, now, epoch) for name, value in values.items()]
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See the protocol."""
        self.log({f"summary/{name}": value for name, value in scalars(summary).items()}, 0)
        self._ended = True

    def close(self, *, failed: bool) -> None:
        """See the protocol."""
        status = "FAILED" if failed else "FINISHED" if self._ended else "KILLED"
        self._client.set_terminated(self.id, status)
