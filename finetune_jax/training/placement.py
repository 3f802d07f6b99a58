"""Where the arrays of a run live: whole on every device, or the parameters in shares over all devices."""

import dataclasses
from typing import Any

import jax

from finetune_jax.devices import shares
from finetune_jax.devices.replicas import Replicas
from finetune_jax.training.state import TrainState, Tree


@dataclasses.dataclass(frozen=True)
class Placement:
    """How host arrays come to the devices, and how functions of them are mapped.

    In shares are the parameters, trained or not, what the optimiser keeps of each, and their averages. Running
    statistics of norms, numbers and totals are whole on every device.

    Attributes:
        replicas: the devices.
        in_shares: whether each of them holds its share alone; see ``devices.shares``.
    """

    replicas: Replicas
    in_shares: bool = False

    def parameters(self, tree: Tree) -> Tree:
        """Parameters, or what an optimiser keeps of them, from the host to the devices."""
        return self.replicas.share(tree) if self.in_shares else self.replicas.replicate(tree)

    def variables(self, variables: Tree) -> Tree:
        """``{"params": …, "batch_stats": …}`` from the host to the devices."""
        return {
            "params": self.parameters(variables["params"]),
            "batch_stats": self.replicas.replicate(variables["batch_stats"]),
        }

    def state(self, state: TrainState) -> TrainState:
        """A state from the host to the devices."""
        if not self.in_shares:
            return self.replicas.replicate(state)
        rest = self.replicas.replicate((state.step, state.key, state.batch_stats, state.totals, state.tables))
        step, key, batch_stats, totals, tables = rest
        return TrainState(
            step=step,
            key=key,
            params=self.parameters(state.params),
            frozen=self.parameters(state.frozen),
            batch_stats=batch_stats,
            opt_state=self.parameters(state.opt_state),
            totals=totals,
            averages=None if state.averages is None else self.variables(state.averages),
            tables=tables,
        )

    def across_processes(self, tree: Tree, axes: Any) -> Tree:
        """Arrays on the devices as all processes of the job save them together; on the host where one saves alone.

        Args:
            tree: any.
            axes: of it, as for ``Replicas.map``.
        """
        if self.in_shares and self.replicas.process_count > 1:
            return self.replicas.across_processes(tree, axes)
        return jax.device_get(tree)

    def axes(self, state: TrainState) -> Any:
        """Of a state on the devices, for ``Replicas.map``."""
        if not self.in_shares:
            return None
        nowhere: Any = None
        return TrainState(
            step=nowhere,
            key=nowhere,
            params=shares.axes(state.params),
            frozen=shares.axes(state.frozen),
            batch_stats=None,
            opt_state=shares.axes(state.opt_state),
            totals=nowhere,
            averages=None if state.averages is None else self.variable_axes(state.averages),
            tables=None,
        )

    def start_axes(self, start: Any) -> Any:
        """Of where a pass starts, or of averages: a ``Start`` or variables."""
        if isinstance(start, dict):
            return self.variable_axes(start)
        return start._replace(params=shares.axes(start.params), batch_stats=None) if self.in_shares else None

    def variable_axes(self, variables: Tree) -> Any:
        """Of variables on the devices, for ``Replicas.map``."""
        if not self.in_shares:
            return None
        return {"params": shares.axes(variables["params"]), "batch_stats": None}
