"""What is compiled for a run, and the plan of its training."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import erasing
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Training
from finetune_jax.data.statistics import channel_statistics
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.card import Card, options_of, shapes_of
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.registry import with_norm_momentum, with_settings
from finetune_jax.runs.images import Images
from finetune_jax.runs.start import Start
from finetune_jax.training import (
    averages,
    evaluation,
    gradient_signal,
    lockstep,
    norm_statistics,
    objectives,
    rates,
    step,
    tables,
    unfreezing,
)
from finetune_jax.training.evaluation import Counts, Evaluation
from finetune_jax.training.methods import registry
from finetune_jax.training.methods.method import Around, Method
from finetune_jax.training.placement import Placement
from finetune_jax.training.plan import AfterEpoch, Plan
from finetune_jax.training.state import TrainState, create_state
from finetune_jax.training.step import Objective
from finetune_jax.training.tasks import Task
from finetune_jax.training.tuning import FixedRates
from finetune_jax.training.value_tasks import Regression

# Random streams of the run's key.
HEAD_STREAM = 0
_STATE_STREAM, _TASK_STREAM, _METHOD_STREAM = 1, 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What runs that differ in nothing but ``config.RUNTIME_SETTINGS`` share: images, network, compiled functions.

    The values of a run (rates, momentum, weight decay) are in its plan and in its state, see :func:`plan_of` and
    :func:`initial_state`.

    Attributes:
        key: random key of the run.
        images: what is trained on and measured.
        start: the network before training, and its variables.
        placement: where.
        task: what is learned.
        method: what is trained, and how.
        variables: before training, of all that the steps see: the method's, and what the task trains beside them.
        trained: names of the parts that are trained.
        normalize: uint8 images to the network's input.
        objective: what is minimised.
        train_step: of one replica.
        training: the step, compiled, over the batches of an order.
        predict: outputs of ``task`` over whole splits, compiled.
        card: what prediction needs beside the variables.
        count: what the scores of a split are counted from without its outputs, compiled, for classes of images in
            shards; None where all outputs are compared.
        estimate: gives averaged weights statistics of norms of their own, over the batches of an order; None where they
            need none.
    """

    key: jax.Array
    images: Images
    start: Start
    placement: Placement
    task: Task
    method: Method
    variables: Variables
    trained: tuple[str, ...]
    normalize: Callable[[jax.Array], jax.Array]
    objective: Objective
    train_step: Callable[[TrainState, Batch], TrainState]
    training: Training
    predict: Evaluation
    card: Card
    count: Counts | None = None
    estimate: Callable[[TrainState, np.ndarray], TrainState] | None = None

    @property
    def replicas(self) -> Replicas:
        """The devices."""
        return self.placement.replicas

    def outputs(self, predict: Evaluation, variables: Any, split: str) -> np.ndarray:
        """Outputs ``[N, …]`` of an evaluation for the images of a split."""
        return predict(variables, self.images.feeds[split], len(self.images.splits[split].labels))

    def test_scores(self, predict: Evaluation, variables: Any) -> dict[str, float]:
        """``{test_NAME: number}`` of an evaluation that gives what the task scores."""
        outputs = self.outputs(predict, variables, "test")
        return self.scores_of_outputs(outputs, self.gallery_outputs(predict, variables))

    def gallery_outputs(self, predict: Evaluation, variables: Any) -> np.ndarray | None:
        """Outputs of the images that the test images are searched in; None where that is the test split."""
        return self.outputs(predict, variables, "gallery") if "gallery" in self.images.splits else None

    def scores_of_outputs(self, outputs: np.ndarray, gallery: np.ndarray | None) -> dict[str, float]:
        """``{test_NAME: number}`` of outputs of the test images, and of the gallery where there is one."""
        splits = self.images.splits
        searched = None if gallery is None else (gallery, splits["gallery"].labels)
        return self.task.scores(outputs, splits["test"].labels, "test", searched)


def in_shares(config: FinetuneConfig, replicas: Replicas) -> bool:
    """Whether the parameters of a run are in shares over the devices; on a single one there is nothing to share."""
    return config.shard_parameters and replicas.count > 1


def run_key(config: FinetuneConfig) -> jax.Array:
    """The random key that all others of a run are made of."""
    return jax.random.key(config.seed)


def build(config: FinetuneConfig, task: Task, images: Images, start: Start, replicas: Replicas) -> Program:
    """Put the functions of a run together; each is compiled at its first call.

    Args:
        config: of the run, resolved.
        task: what is learned.
        images: what is trained on and measured.
        start: the network before training.
        replicas: where.

    Raises:
        UserError: the network does not suit the method.
    """
    key = run_key(config)
    num_classes = len(images.class_names)
    placement = Placement(replicas, in_shares(config, replicas))
    network, variables = start.network, start.variables
    if placement.in_shares:
        network = with_settings(network, parameter_axis=AXIS)
        # One device may have no room for all of it beside what follows.
        variables = jax.device_get(variables)
    method = registry.create(
        config, network, variables, jax.random.fold_in(key, _METHOD_STREAM), axis_name=AXIS
    )
    beside = task.parts_beside_network(num_classes, jax.random.fold_in(key, _TASK_STREAM))
    params = {**method.variables["params"], **beside}
    trained = (*method.trained, *beside)
    mean, std = start.mean, start.std
    if config.normalization == "dataset":
        mean, std = channel_statistics(images.splits["train"].images)
    normalize = normalizer(mean, std)
    loss = task.loss(images.splits["train"].labels, images.class_names)
    objective = objectives.objective(
        method.forward,
        objectives.with_whole_parts(loss, beside, AXIS) if placement.in_shares and beside else loss,
        normalize=normalize,
        augment=images.augment,
        mix=_mixing(config, num_classes),
        erase=functools.partial(erasing.erase, probability=config.erasing) if config.erasing else None,
    )
    # The optimiser's hyperparameters are in the state, so a run with others is the same program.
    optimizer = rates.optimizer(config, trained, method.rules(config), method.network.with_part_below)
    train_step = functools.partial(
        step.train_step,
        objective=objective,
        optimizer=optimizer,
        axis_name=AXIS,
        pieces=config.accumulate_steps,
        clip=rates.clip(config, AXIS if placement.in_shares else None),
        gives_loss=config.optimizer == "momo",
        in_shares=placement.in_shares,
    )
    network = method.network
    estimate = None
    if averages.estimates_statistics(config) and jax.tree.leaves(method.variables["batch_stats"]):
        forgetful = registry.create(
            config,
            with_norm_momentum(start.network, 0.0),
            start.variables,
            jax.random.fold_in(key, _METHOD_STREAM),
            axis_name=AXIS,
        )
        if placement.in_shares:
            raise UserError(
                "--shard_parameters is not for --average_statistics=estimated with a network of batch norms; use "
                "--average_statistics=kept"
            )
        estimate = norm_statistics.compile_averages_estimate(
            forgetful.forward, objective.prepare, images.feeds["train"], replicas
        )
    outputs = evaluation.of_centre(task.outputs(method.measured, normalize), images.image_size)
    axes = placement.variable_axes
    evaluated = [len(arrays.labels) for name, arrays in images.splits.items() if name != "train"]
    batch_size = evaluation.batch_size_for(*evaluated)
    return Program(
        key=key,
        images=images,
        start=start,
        placement=placement,
        task=task,
        method=method,
        variables={**method.variables, "params": params},
        trained=trained,
        normalize=normalize,
        objective=objective,
        train_step=train_step,
        training=images.feeds["train"].compile_training(train_step, placement.axes),
        predict=evaluation.compile_evaluation(outputs, replicas, batch_size, axes),
        count=evaluation.compile_counts(outputs, replicas, num_classes, batch_size, axes)
        if images.division is not None and task.name == "classification"
        else None,
        card=Card(
            architecture=network.architecture,
            width=network.width,
            blocks=len(network.blocks),
            class_names=images.class_names,
            preprocessing=datasets.preprocessing(config, images.image_size, train=False),
            mean=mean,
            std=std,
            bfloat16=config.bfloat16,
            head=network.head_name,
            composition=method.composition,
            options=options_of(network),
            beside=shapes_of({name: params[name] for name in method.references}),
            # Retrieval has a classifier of the classes it is trained on.
            task="classification" if task.name == "retrieval" else task.name,
            target_mean=task.mean if isinstance(task, Regression) else (),
            target_deviation=task.deviation if isinstance(task, Regression) else (),
        ),
        estimate=estimate,
    )


def _mixing(config: FinetuneConfig, num_classes: int) -> objectives.Mixing | None:
    if not (config.mixup or config.cutmix):
        return None
    return objectives.Mixing(
        num_classes, config.mixup, config.cutmix, config.mix_probability, config.cutmix_probability, AXIS
    )


def initial_state(program: Program, config: FinetuneConfig) -> TrainState:
    """The state before the first step of a run with this program and config (resolved)."""
    with program.replicas.on_host() if program.placement.in_shares else contextlib.nullcontext():
        return create_state(
            program.variables,
            program.trained,
            rates.optimizer(
                config,
                program.trained,
                program.method.rules(config),
                program.method.network.with_part_below,
            ),
            key=jax.random.fold_in(program.key, _STATE_STREAM),
            totals=(*program.task.totals, *program.method.totals, *_norms(config, program.trained)),
            averaged=averages.kind_of(config) is not None,
        )


def _norms(config: FinetuneConfig, trained: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(step.NORM + name for name in trained) if config.gradient_norms else ()


def training_of(program: Program, config: FinetuneConfig) -> Training:
    """The compiled steps of a run, whose config is resolved, with what its method does between them.

    Raises:
        UserError: the run has not what the method needs.
    """
    images = program.images
    count = len(images.splits["validation"].labels) if images.division is None else 0
    around = Around(
        config=config,
        task=program.task.name,
        replicas=program.replicas,
        normalize=program.normalize,
        validation=images.feeds["validation"] if count else None,
        images=count,
        steps_per_epoch=images.steps_per_epoch,
    )
    return program.method.steps(program.training, around)


def plan_of(
    program: Program,
    config: FinetuneConfig,
    after_epoch: AfterEpoch | None = None,
    *,
    rates_by_step: bool | None = None,
) -> Plan:
    """The plan of a run with this program.

    Args:
        program: of the run.
        config: of the run, resolved.
        after_epoch: see ``training.Plan``.
        rates_by_step: whether its steps look up rates of their own; by default where the config asks for that.
            Runs in lockstep all do, or none.
    """
    if rates_by_step is None:
        rates_by_step = tables.rates_change_within_epochs(config)
    tuner = program.method.tuner(config, program.trained)
    if program.placement.in_shares and isinstance(tuner, FixedRates):
        # To know how far blocks moved takes a second copy of the weights, which only a method that sorts them needs.
        tuner = dataclasses.replace(tuner, blocks=())
    if program.placement.in_shares and (tuner.measure != "mean" or program.method.asks_signal):
        raise UserError("--shard_parameters measures how far blocks moved by Eq. 1 of AutoLR alone")
    signal = None
    if program.method.asks_signal:
        signal = gradient_signal.measuring(
            program.objective,
            program.images.feeds["train"],
            program.images.order,
            tuner.blocks,
            program.replicas,
        )
    if config.head_epochs or config.unfreeze_epochs:
        tuner = unfreezing.Unfreezing(tuner, unfreezing.first_epochs(config, program.trained))
    return Plan(
        epochs=config.epochs,
        batch_size=config.images_per_step,
        order=program.images.order,
        tuner=tuner,
        evaluate=functools.partial(_evaluate, program, config),
        score="" if config.select_on == "last" else f"{config.select_on}_{program.task.score}",
        patience=config.early_stopping,
        checkpoint_steps=config.checkpoint_steps,
        keep_best=config.keep_epochs,
        in_shares=program.placement.in_shares,
        keep_trials=config.keep_trials,
        tables=tables.tables_of(
            config, program.trained, program.images.steps_per_epoch, by_step=rates_by_step
        ),
        signal=signal,
        average=averages.updating(config, program.placement, _estimating(program)),
        after_epoch=after_epoch,
        card=program.card.to_json(),
    )


def _estimating(program: Program) -> Callable[[TrainState, int], TrainState] | None:
    estimate = program.estimate
    return None if estimate is None else lambda state, epoch: estimate(state, program.images.order(epoch))


def lanes_of(program: Program, config: FinetuneConfig, count: int) -> lockstep.Lanes:
    """The compiled step of so many runs in lockstep."""
    images, labels = program.images.splits["train"].images, program.images.splits["train"].labels
    number: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    label: Any = jax.ShapeDtypeStruct((1, *labels.shape[1:]), labels.dtype)
    image: Any = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    changing = lockstep.changing_statistics(
        program.objective, initial_state(program, config), Batch(image, label, number)
    )
    return lockstep.Lanes(
        count, program.train_step, changing, program.images.feeds["train"], program.replicas
    )


def _evaluate(program: Program, config: FinetuneConfig, state: TrainState) -> Mapping[str, float | None]:
    """Scores of the state after an epoch on validation, and on test where that chooses the best epoch.

    Where weights are averaged they are those of the better weights, and the scores of both stand beside them.
    """
    totals = {name: float(state.totals[name]) for name in program.method.totals}

    def scores_of(variables: Variables) -> dict[str, float]:
        variables = program.method.result(variables, totals)
        scores: dict[str, float] = {}
        if program.count is not None:
            for split in ("validation", *(["test"] if config.select_on == "test" else [])):
                if split in program.images.feeds:
                    labels = program.images.splits[split].labels
                    counts = program.count(variables, program.images.feeds[split], labels)
                    scores |= evaluation.scores_of_counts(counts, split)
            return scores
        if "validation" in program.images.feeds:
            outputs = program.outputs(program.predict, variables, "validation")
            scores |= program.task.scores(outputs, program.images.splits["validation"].labels, "validation")
        if config.select_on == "test":
            scores |= program.test_scores(program.predict, variables)
        return scores

    epoch = int(state.step) // program.images.steps_per_epoch - 1
    return averages.scores_of_better(config, program.task.score, state, epoch, scores_of)
