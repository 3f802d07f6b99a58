"""What a fine-tuning method is: the questions that training, evaluation and reports ask it.

A method is a subclass of :class:`Method` in a file of its own, with one line in ``registry.METHODS`` and one entry in
``config.methods``. Nothing else of the package knows methods by name.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import numpy as np

from finetune_jax.algorithms.optimizers import Rule
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import Feed, Training
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.models.network import Model, Network, Variables
from finetune_jax.reports.study_report import Picture
from finetune_jax.reports.tables import Files
from finetune_jax.training import evaluation, rates
from finetune_jax.training.evaluation import Evaluation
from finetune_jax.training.objectives import Forward
from finetune_jax.training.rehearsal import Rehearsals
from finetune_jax.training.tasks import Task
from finetune_jax.training.tuning import Tuner


class Base(NamedTuple):
    """What a method starts from.

    Attributes:
        network: with the head of the task.
        variables: of it, before training.
        key: random key of what is new beside the head.
        axis_name: mapped axis of the replicas; None for a single one.
    """

    network: Network
    variables: Variables
    key: jax.Array
    axis_name: str | None = None


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run that is trained, as a method examines it.

    Attributes:
        config: of the run, resolved.
        task: what it learned.
        replicas: where it is evaluated.
        normalize: uint8 images to the network's input.
        dataset: name of the data set.
        class_names: of all labels of the test images.
        test_labels: int32 ``[N]``.
        variables: of the result, on the devices.
        totals: ``{name of Method.totals: mean per training image}`` of the epoch that was chosen.
        test_outputs: an evaluation and its variables to its outputs ``[N, …]`` of the test images.
        test_scores: an evaluation of what ``task.outputs`` gives, and its variables, to ``{test_NAME: score}``.
    """

    config: FinetuneConfig
    task: Task
    replicas: Replicas
    normalize: Callable[[jax.Array], jax.Array]
    dataset: str
    class_names: Sequence[str]
    test_labels: np.ndarray
    variables: Variables
    totals: Mapping[str, float]
    test_outputs: Callable[[Evaluation, Any], np.ndarray]
    test_scores: Callable[[Evaluation, Any], dict[str, float]]

    def compile(self, function: Callable[[Any, jax.Array], jax.Array]) -> Evaluation:
        """``function(variables, images uint8 [B, H, W, C]) → [B, …]`` over whole splits."""
        return evaluation.compile_evaluation(function, self.replicas)


@dataclasses.dataclass(frozen=True)
class Around:
    """What a method may use between the steps of training.

    Attributes:
        config: of the run, resolved.
        task: name of what it learns.
        replicas: where.
        normalize: uint8 images to the network's input.
        validation: feed of the validation images; None where there are none, or where they lie in shards.
        images: how many validation images there are.
        steps_per_epoch: of the training.
    """

    config: FinetuneConfig
    task: str
    replicas: Replicas
    normalize: Callable[[jax.Array], jax.Array]
    validation: Feed | None
    images: int
    steps_per_epoch: int


def _no_figures() -> list[Picture]:
    return []


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a method says of a trained run beside its scores.

    Attributes:
        summary: entries of ``summary.json``, JSON; they take the place of those of the same name.
        notes: sentences that the reader of the result must know.
        files: ``{file name: content}`` beside the report.
        draw: the figures of the report; called only where they are written.
    """

    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Files = dataclasses.field(default_factory=dict)
    draw: Callable[[], list[Picture]] = _no_figures


class RateChoice(NamedTuple):
    """What a method has concluded from rehearsals.

    Attributes:
        settings: of the run, ``{setting: value}``; with them ``--method=standard`` trains the same run.
        reason: for people, without a full stop.
        notes: sentences that the reader of the result must know.
    """

    settings: Mapping[str, Any]
    reason: str
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method makes of a network; what a subclass does not override is that of standard fine-tuning.

    Attributes:
        network: the plain network, with the head of the task.
        model: what is trained: the network, or what is composed around it.
        variables: before training, of everything that the steps see.
        trained: names of the parts that are trained.
        forward: images to outputs in training mode.
        totals: names of what ``forward`` sums over the images of an epoch; columns ``train_NAME`` of ``metrics.csv``.
        references: names of parts of ``variables`` that only training needs; no parameters of the model.
    """

    from_pretrained: ClassVar[bool] = True
    """Whether the run starts from the weights that ``--pretrained`` names."""

    asks_signal: ClassVar[bool] = False
    """Whether its tuner wants the signal-to-noise ratios of gradients after every pass."""

    acts_between_steps: ClassVar[bool] = False
    """Whether :meth:`steps` adds something, which one program for several runs cannot."""

    network: Network
    model: Model
    variables: Variables
    trained: tuple[str, ...]
    forward: Forward
    totals: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """What the method makes of a network.

        Args:
            config: of the run, resolved.
            base: the network with the head of the task, before training.

        Raises:
            UserError: the network does not suit the method.
        """
        raise NotImplementedError

    def peak_rates(self, config: FinetuneConfig) -> Mapping[str, float]:
        """``{part: learning rate}`` of trained parts beside those of the network that do not learn like the head."""
        del config
        return {}

    def rules(self, config: FinetuneConfig) -> Mapping[str, Rule]:
        """``{part: optimiser}`` of trained parts that have one of their own."""
        del config
        return {}

    def tuner(self, config: FinetuneConfig, trained: tuple[str, ...]) -> Tuner:
        """Who decides the learning rates, and whether a pass over the images counts.

        Args:
            config: of the run, resolved.
            trained: all trained parts, those of the task beside the network too.

        Raises:
            UserError: a rate is for a part that is not trained.
        """
        return rates.fixed(config, trained, self.peak_rates(config), self.network.with_part_below)

    def steps(self, training: Training, around: Around) -> Training:
        """The compiled steps, with what the method does between them; by default nothing.

        Args:
            training: the steps.
            around: what else there is.

        Raises:
            UserError: the run has not what the method needs for it.
        """
        del around
        return training

    def find(self, config: FinetuneConfig, rehearsals: Rehearsals) -> RateChoice:
        """What the method finds out before training; only those with ``config.methods.Method.finds_rates`` do.

        Args:
            config: of the run, resolved.
            rehearsals: of the run.
        """
        raise NotImplementedError

    @property
    def measured(self) -> Model:
        """What is evaluated, and what prediction uses, with the variables of :meth:`result`."""
        return self.model

    @property
    def composition(self) -> Mapping[str, Any]:
        """What a checkpoint's card says of ``model``; empty for the plain network."""
        return {}

    @property
    def makes_compact(self) -> bool:
        """Whether :meth:`result` holds less than the checkpoint, and is saved as a checkpoint of its own."""
        return False

    def result(self, variables: Variables, totals: Mapping[str, float]) -> Variables:
        """Variables of :attr:`measured`, with the parts that the task trains beside the network.

        Args:
            variables: as trained.
            totals: ``{name: sum or mean over the images of the epoch}``, see :attr:`totals`.
        """
        del totals
        return variables

    def examine(self, run: TrainedRun) -> Findings:
        """What the method adds to summary and report; every process of a job calls it."""
        del run
        return Findings()


def check_k(k: int, count: int, network: Network) -> None:
    """Refuse a ``--k`` above the number of blocks.

    Raises:
        UserError: says how many blocks there are.
    """
    if k > count:
        routed = "" if count == len(network.blocks) else " that are not frozen"
        raise UserError(f"--k={k}: {network.architecture} has only {count} blocks{routed}")
