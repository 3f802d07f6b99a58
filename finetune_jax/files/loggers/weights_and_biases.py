"""Weights & Biases. Project, entity and mode may also come from its own ``WANDB_…`` variables."""

import secrets
from collections.abc import Mapping
from typing import Any

from finetune_jax.files.loggers.protocol import Beginning, scalars


class WeightsAndBiases:
    """See ``protocol.Logger``."""

    def __init__(self, beginning: Beginning) -> None:
        import wandb

        self.id = beginning.known_as or secrets.token_hex(4)
        self._run = wandb.init(
            project=beginning.project,
            id=self.id,
            name=beginning.name,
            resume="allow",
            dir=str(beginning.directory),
            config=dict(beginning.flags),
            reinit="create_new",
        )
        # Not its own counter of steps: an epoch that is trained again after a kill is logged again.
        self._run.define_metric("*", step_metric="epoch")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """See the protocol."""
        self._run.log({**values, "epoch": epoch})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """See the protocol."""
        self._run.summary.update(scalars(summary))

    def close(self, *, failed: bool) -> None:
        """See the protocol."""
        self._run.finish(exit_code=int(failed))
