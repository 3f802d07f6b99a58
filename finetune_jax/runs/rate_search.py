"""Rates that are searched before training: by range tests of ``--learning_rate``, and by methods that find theirs."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_jax.config.choices import FIND, FINDS_RATES, RANGE_TESTS
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.runs import about, probe_start
from finetune_jax.runs import program as programs
from finetune_jax.runs.chosen_rate import Settings, settings_of
from finetune_jax.runs.program import Program
from finetune_jax.training import evaluation, rate_finder
from finetune_jax.training.methods.method import RateChoice
from finetune_jax.training.rehearsal import Chosen, Rehearsals, Rehearsed, held_out
from finetune_jax.training.state import TrainState
from finetune_jax.training.tuning import Tuner


def searched(
    program: Program,
    settings: Settings,
    chosen_before: Mapping[str, Any] | None,
    directory: Path | None = None,
) -> Settings:
    """The settings of a run with the rates that its search finds; as they are where nothing is searched.

    Nothing else of the run depends on the search: the same rates as flags train the same run, bit for bit.

    Args:
        program: of the run.
        settings: of it, with any number for a rate that is searched.
        chosen_before: ``rates`` of an earlier start of this run, whose rates stay; None at the first start.
        directory: of the run; None prints nothing.

    Raises:
        UserError: there is no rate at which the loss is finite.
    """
    flags = settings.flags
    if flags.learning_rate not in RANGE_TESTS and flags.method not in FINDS_RATES:
        return settings
    if chosen_before is not None:
        search, reason = chosen_before["search"], chosen_before["reason"]
    else:
        began = time.monotonic()
        says = directory is not None and program.replicas.is_primary
        if directory is not None and says:
            for line in about.first_lines(program, settings, directory):
                print(line, file=sys.stderr)
        rehearsals = rehearsals_of(program, settings, _print if says else _nothing)
        settings = dataclasses.replace(settings, announced=says)
        choice = _rate_choice(program, settings, rehearsals)
        search = {
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in choice.settings.items()
            },
            "rehearsals": [_row(rehearsed) for rehearsed in rehearsals.log],
            "images_trained": rehearsals.cost.images_trained,
            "images_judged": rehearsals.cost.images_judged,
            "seconds": round(time.monotonic() - began, 3),
            **({"notes": list(choice.notes)} if choice.notes else {}),
        }
        reason = choice.reason
        for note in choice.notes:
            rehearsals.say(f"warning: {note}")
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in search["settings"].items()
    }
    config = settings_of(changed(flags, **values), program.images).config
    return dataclasses.replace(settings, config=config, reason=reason, search=search)


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _nothing(line: str) -> None:
    del line


def rehearsals_of(program: Program, settings: Settings, say: Callable[[str], None] = _nothing) -> Rehearsals:
    """Rehearsals of a run: its start, its step, its images; ``say`` is called with a line for each."""
    config, method = settings.config, program.method
    labels = program.images.splits["train"].labels
    held = held_out(len(labels), config.seed)
    feed = Chosen(program.images.feeds["train"], held)
    weights = program.images.splits["train"].weights
    weights = None if weights is None else weights[held]
    loss_of_outputs = program.task.loss(labels, program.images.class_names)
    # For classification the outputs of the task are what the loss takes; for retrieval they are embeddings.
    predict = program.predict
    if config.protocol != "classification":
        outputs_of = evaluation.classifier(method.measured, program.normalize)
        predict = evaluation.compile_evaluation(
            evaluation.of_centre(outputs_of, program.images.image_size), program.replicas
        )

    def loss(state: TrainState) -> np.ndarray:
        totals = {name: float(state.totals[name]) for name in method.totals}
        outputs = jax.numpy.asarray(predict(method.result(state.variables, totals), feed, len(held)))
        params = jax.device_get(state.params)

        def of_images(outputs: jax.Array, labels: jax.Array, weights: jax.Array | None) -> jax.Array:
            return loss_of_outputs(outputs, params, labels, weights)[0]

        if not loss_is_a_mean(config):
            return np.asarray(of_images(outputs, labels[held], weights))
        rows = outputs[:, None], labels[held][:, None], None if weights is None else weights[:, None]
        return np.asarray(jax.vmap(of_images)(*rows))

    rehearsals = Rehearsals(
        state=jax.device_get(programs.initial_state(program, config)),
        training=program.training,
        loss=loss,
        plan=programs.plan_of(program, config),
        replicas=program.replicas,
        held_out=held,
        say=say,
    )
    if probe_start.obstacle(program):
        return rehearsals

    def from_probe() -> Rehearsals:
        changed_settings = dataclasses.replace(settings, config=dataclasses.replace(config, from_probe=True))
        say("a linear probe of the pretrained features becomes the head")
        other = probe_start.built(program, changed_settings.config)
        rehearsals.cost.images_judged += min(len(labels), probe_start.MOST + len(held))
        again = rehearsals_of(other, changed_settings, say)
        return dataclasses.replace(again, cost=rehearsals.cost, log=rehearsals.log)

    return dataclasses.replace(rehearsals, from_probe=from_probe)


def loss_is_a_mean(config: FinetuneConfig) -> bool:
    """Whether the loss of a batch is the mean of those of its images; that of proxies sums over the classes in it."""
    return config.loss != "proxy_anchor"


def _rate_choice(program: Program, settings: Settings, rehearsals: Rehearsals) -> RateChoice:
    config = settings.config
    if settings.flags.learning_rate not in RANGE_TESTS:
        return program.method.find(config, rehearsals)

    def tuner(config: FinetuneConfig) -> Tuner:
        return program.method.tuner(config, program.trained)

    rate, reason = rate_finder.find(config, tuner, rehearsals)
    if settings.flags.learning_rate == FIND:
        return RateChoice({"learning_rate": rate}, reason)
    factors, of_parts = rate_finder.find_factors(config, tuner, rehearsals, rate)
    return RateChoice(
        {
            "learning_rate": rate,
            "rate_factors": tuple(f"{name}={value:g}" for name, value in factors.items()),
        },
        f"{reason}; {of_parts}",
    )


def _row(rehearsed: Rehearsed) -> dict[str, Any]:
    """Of ``flags.json``; JSON has no infinity."""
    loss = rehearsed.loss if math.isfinite(rehearsed.loss) else None
    return {"rates": dict(rehearsed.rates), "steps": rehearsed.steps, "loss": loss}
