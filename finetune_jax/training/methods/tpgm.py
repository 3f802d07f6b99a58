"""Trainable Projected Gradient Method (Tian et al., CVPR 2023): how far weights may go is learned during training.

After every ``--radii_every`` steps the radii learn from ``--radii_steps`` batches of validation images, and the weights
are projected into balls of these radii around the pretrained ones: the paper's algorithm, which for ResNets does so
after every step with one batch. See ``algorithms.learned_radii`` for the rule.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from finetune_jax.algorithms import learned_radii, projection
from finetune_jax.algorithms.learned_radii import RadiiState
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import Training
from finetune_jax.errors import UserError
from finetune_jax.training import radii
from finetune_jax.training.methods.method import Around, Base, Findings, TrainedRun
from finetune_jax.training.methods.plain import Standard
from finetune_jax.training.state import TrainState

RADII = "radii_of_tpgm"
"""Name of the frozen part that holds the pretrained weights, the radii and Adam's moments."""


@dataclasses.dataclass(frozen=True)
class TPGM(Standard):
    """All parts are trained; those that are pretrained stay within learned distances of their start."""

    acts_between_steps = True

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """The network, and beside it where it started; see :meth:`Method.create`."""
        method = super().create(config, base)
        start = radii.without_head(base.variables["params"])
        zeros = jax.tree.map(lambda leaf: np.zeros((), np.float32), start)
        beside = {"start": start, "radii": zeros, "first": zeros, "second": zeros, "steps": np.float32(0)}
        params = {**base.variables["params"], RADII: beside}
        return dataclasses.replace(
            method, variables={**base.variables, "params": params}, references=(RADII,)
        )

    def steps(self, training: Training, around: Around) -> Training:
        """Learn and project after some steps; see :meth:`Method.steps`."""
        if around.task != "classification":
            raise UserError(
                f"--method=tpgm learns from classes of images, and --task={around.task} has none; choose --method=ftp"
            )
        if around.validation is None or not around.images:
            raise UserError(
                "--method=tpgm learns from validation images, of which this run has none or only shards; give "
                "--validation_fraction without --data_shards, or choose --method=ftp"
            )
        project = self._projecting(around)
        every = around.config.radii_every or around.steps_per_epoch

        def run(state: TrainState, order: np.ndarray) -> Iterator[tuple[TrainState, int]]:
            done, first = int(state.step), 0
            while first < len(order):
                rows = order[first : first + every - done % every]
                left = len(rows)
                for after, taken in training(state, rows):
                    state, left = after, left - taken
                    done, first = done + taken, first + taken
                    if not left and done % every == 0:
                        state = project(state, done // every)
                    yield state, taken

        return run

    def _projecting(self, around: Around) -> Any:
        """``(state, turn) → state`` with radii that have learned once more, and weights within them."""
        config, replicas = around.config, around.replicas
        assert around.validation is not None
        # As in the published code: the statistics are those of the weights that training projects, step by step.
        learn = radii.compile_learning(
            self.network, around.normalize, around.validation, in_training_mode=False
        )
        rate = np.float32(config.radius_rate)

        def begin(state: TrainState, rate: jax.Array) -> radii.Learning:
            beside = state.frozen[RADII]
            end = radii.without_head(state.params)
            fresh = learned_radii.init(end, beside["start"]).radii
            moments = optax.ScaleByAdamState(
                beside["steps"].astype(jnp.int32), beside["first"], beside["second"]
            )
            chosen = jax.tree.map(
                lambda new, old: jnp.where(beside["steps"] > 0, old, new), fresh, beside["radii"]
            )
            learning = radii.Learning(
                end=end,
                start=beside["start"],
                fixed={radii.HEAD: state.params[radii.HEAD]},
                statistics=state.batch_stats,
                learned=RadiiState(chosen, moments),
                rate=rate,
            )
            # Copied: steps use up what they are given.
            return jax.tree.map(jnp.copy, learning)

        def end(state: TrainState, learned: RadiiState) -> tuple[Any, Any]:
            beside = state.frozen[RADII]
            near = projection.project(radii.without_head(state.params), beside["start"], learned.radii)
            moments = learned.moments
            after = {
                **beside,
                "radii": learned.radii,
                "first": moments.mu,
                "second": moments.nu,
                "steps": moments.count.astype(jnp.float32),
            }
            return {**state.params, **near}, after

        mapped_begin, mapped_end = replicas.map_replicated(begin), replicas.map_replicated(end)
        placed_rate = replicas.replicate(rate)

        def project(state: TrainState, turn: int) -> TrainState:
            order = radii.batches(
                around.images,
                config.radii_steps,
                config.batch_size,
                multiple=replicas.count,
                seed=[config.seed, turn],
            )
            learned = learn(mapped_begin(state, placed_rate), order).learned
            params, beside = mapped_end(state, learned)
            return state.replace(params=params, frozen={**state.frozen, RADII: beside})

        return project

    def examine(self, run: TrainedRun) -> Findings:
        """The radii of the result, summed up for every part."""
        beside = run.variables["params"][RADII]
        if not float(beside["steps"]):
            return Findings()
        longest = {
            part: float(max(np.asarray(leaf) for leaf in jax.tree.leaves(tree)))
            for part, tree in beside["radii"].items()
        }
        return Findings({"largest_radii": longest})
