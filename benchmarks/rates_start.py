"""Starts of the runs of :mod:`benchmarks.rates`: a network, its weights and its images, and trainings from there."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

_HEAD_ALONE = 0.2  # of the steps of head_first


class Cell:
    """One network, optimiser and data set.

    Args:
        settings: fields of ``FinetuneConfig``.
        still: batch norms keep the statistics that they were pretrained with.
    """

    def __init__(self, settings: Mapping[str, Any], *, still: bool = False) -> None:
        self.fields = settings
        import jax

        from finetune_jax.config.settings import FinetuneConfig
        from finetune_jax.devices.replicas import local_replicas
        from finetune_jax.runs import finetune, start

        self.flags = FinetuneConfig(**{"method": "auto", "workdir": "unused", **settings})
        self.origin = start.load_origin(self.flags)
        # Built as of a standard run: nothing is searched, and the step is the same.
        standard = dataclasses.replace(self.flags, method="standard")
        with still_norms() if still else contextlib.nullcontext():
            self.program, self.settings = finetune.prepare(standard, local_replicas(jax.devices()[:1]))
        self.scores: dict[str, float] = {}

    @functools.cached_property
    def still(self) -> "Cell":
        """The same with batch norms that keep their statistics."""
        return Cell(self.fields, still=True)

    def of_seed(self, seed: int) -> "Started":
        """The start of runs with a seed."""
        import jax

        from finetune_jax.runs import program as programs
        from finetune_jax.runs import start
        from finetune_jax.training.methods import registry

        config = dataclasses.replace(self.settings.config, method=self.flags.method, seed=seed)
        images = dataclasses.replace(self.program.images, config=config)
        key = programs.run_key(config)
        begun = start.begin(
            config, self.origin, images.class_names, self.program.task,
            jax.random.fold_in(key, programs.HEAD_STREAM), images.image_size,
        )  # fmt: skip
        method = registry.create(config, self.program.method.network, begun.variables, key)
        program = dataclasses.replace(
            self.program, key=key, images=images, method=method, variables=begun.variables
        )
        return Started(self, program, dataclasses.replace(self.settings, flags=self.flags, config=config))


@contextlib.contextmanager
def still_norms() -> Iterator[None]:
    """In it, ``--method=standard`` trains with the statistics of its batch norms as they are."""
    from finetune_jax.training import objectives
    from finetune_jax.training.methods import plain, registry

    class Still(plain.Standard):
        @classmethod
        def create(cls, config: Any, base: Any) -> Any:
            network = base.network
            free = [name for name in network.part_names if not base.variables["batch_stats"].get(name)]
            forward = objectives.forward(network, tuple(free))
            return cls(network, network, base.variables, network.part_names, forward)

    with mock.patch.dict(registry.METHODS, {"standard": Still}):
        yield


class Started:
    """Runs from one start."""

    def __init__(self, cell: Cell, program: Any, settings: Any) -> None:
        from finetune_jax.runs import rate_search
        from finetune_jax.training.rehearsal import Cost

        self.cell = cell
        self.program, self.settings, self.config = program, settings, settings.config
        self.origin = cell.origin
        # Starts from a probe are contestants of their own.
        self.rehearsals = dataclasses.replace(rate_search.rehearsals_of(program, settings), from_probe=None)
        self.whole = dataclasses.replace(
            self.rehearsals, held_out=self.rehearsals.held_out[:0], loss=self._measure, log=[], cost=Cost()
        )
        self.scores: dict[str, float] = {}

    def _measure(self, state: Any) -> float:
        program = self.program
        for split in ("validation", "test"):
            outputs = program.outputs(program.predict, state.variables, split)
            scores = program.task.scores(outputs, program.images.splits[split].labels, split)
            self.scores[split] = scores[f"{split}_{program.task.score}"]
        return 0.0

    def rates(self, rate: float, **settings: Any) -> dict[str, float]:
        """``{part: rate}`` of settings."""
        from finetune_jax.training import rate_finder, rates

        config = dataclasses.replace(self.config, **settings)
        trained = self.program.trained
        return dict(rate_finder.rates_at(config, lambda config: rates.fixed(config, trained), rate))

    def train(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Scores of the whole run; none where it diverged."""
        self.scores = {"validation": math.nan, "test": math.nan}
        self.whole.run(rates, self.whole.steps_of_run)
        return self.scores

    def train_head_first(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Scores of a run in which the head learns alone at the beginning."""
        whole, steps = self.whole, self.whole.steps_of_run
        state = whole.begin()
        rows = [row for epoch in range(whole.plan.epochs) for row in whole.plan.order(epoch)]
        for number, row in enumerate(rows):
            factor = 0.5 * (1 + math.cos(math.pi * number / steps))
            alone = number < _HEAD_ALONE * steps
            of_step = {
                name: 0.0 if alone and name != "head" else rate * factor for name, rate in rates.items()
            }
            state = whole.step(state, of_step, row)
        self._measure(state)
        return self.scores

    def probe(self) -> dict[str, float]:
        """Scores of ridge regression, or for retrieval of the features themselves; counts the training images."""
        from finetune_jax.algorithms import transferability
        from finetune_jax.training import evaluation

        program, splits = self.program, self.program.images.splits
        network, normalize = program.method.network, program.normalize
        compute = evaluation.compile_evaluation(
            lambda variables, images: network.embed(variables, normalize(images)), program.replicas
        )
        variables = program.replicas.replicate(program.variables)
        features = {
            name: program.outputs(compute, variables, name) for name in ("train", "validation", "test")
        }
        if program.task.name == "retrieval":
            for split in ("validation", "test"):
                scores = program.task.scores(features[split], splits[split].labels, split)
                self.scores[split] = scores[f"{split}_{program.task.score}"]
            return self.scores
        self.rehearsals.cost.images_judged += len(features["train"])
        for split in ("validation", "test"):
            predictions = transferability.ridge_predictions(
                features["train"], splits["train"].labels, features[split]
            )
            self.scores[split] = float((predictions == splits[split].labels).mean())
        return self.scores

    def recommended(self) -> float:
        """The rate of ``--learning_rate=auto``; counts the training images."""
        from finetune_jax.runs import chosen_rate

        flags = dataclasses.replace(self.settings.flags, method="standard", learning_rate="auto")
        recommended = chosen_rate.chosen_settings(flags, self.program.images, self.origin, None)
        self.rehearsals.cost.images_judged += len(self.program.images.splits["train"].labels)
        return float(recommended.config.learning_rate)

    def train_tuned(self, method: str, **settings: Any) -> dict[str, float]:
        """Scores of a run with the tuner of a method, whose trials count among the images of ``whole``."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from finetune_jax.algorithms import optimizers
        from finetune_jax.errors import Diverged
        from finetune_jax.training import gradient_signal
        from finetune_jax.training.divergence import measure_pass
        from finetune_jax.training.methods.registry import METHODS
        from finetune_jax.training.plan import Start
        from finetune_jax.training.tuning import Pass

        config = dataclasses.replace(self.config, method=method, schedule="constant", **settings)
        as_method: Any = METHODS[method](**vars(self.program.method))
        whole, tuner = self.whole, as_method.tuner(config, self.program.trained)
        state, tuning, epoch = whole.begin(), tuner.initial(), 0
        total, per_epoch = whole.steps_of_run, len(whole.plan.order(0))
        images = self.program.images
        signal = gradient_signal.measuring(
            self.program.objective, images.feeds["train"], whole.plan.order, tuner.blocks, whole.replicas
        )
        copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
        self.trials = 0
        while epoch < whole.plan.epochs:
            start = Start(*copy((state.params, state.batch_stats)))
            if tuner.can_reject or tuner.renews:
                state = state.replace(opt_state=optimizers.reset(state.opt_state))
            peaks = tuner.rates(tuning, epoch)
            for number, row in enumerate(whole.plan.order(epoch)):
                factor = 0.5 * (1 + math.cos(math.pi * (epoch * per_epoch + number) / total))
                state = whole.step(state, {name: rate * factor for name, rate in peaks.items()}, row)
            variations, finite = jax.device_get(measure_pass(tuner.blocks, tuner.measure)(start, state))
            self.trials += 1
            ratios = None
            if as_method.asks_signal:
                ratios = signal(state)
                whole.cost.images_trained += gradient_signal.BATCHES * whole.plan.batch_size
            try:
                tuning, verdict = tuner.judge(tuning, Pass(epoch, variations, bool(finite), ratios))
            except Diverged:
                return {"validation": math.nan, "test": math.nan}
            if verdict.accepted:
                epoch += 1
                continue
            step = whole.replicas.replicate(np.asarray(epoch * per_epoch, np.int32))
            state = state.replace(params=start.params, batch_stats=start.batch_stats, step=step)
        self._measure(state)
        return self.scores
