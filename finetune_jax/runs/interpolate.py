"""Between two networks, and soups of several: weights averaged, judged on validation images, kept as a run.

What judges is the score of the runs' task: accuracy, mean average precision, quadratic kappa, R² or Recall@1.

WiSE-FT (Wortsman et al., CVPR 2022) goes from the weights that a run started from to those it found, and TPGM (Tian
et al., CVPR 2023) learns for each array how far; a greedy soup (Wortsman et al., ICML 2022) averages runs of one
network as long as that does not make it worse.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import averaging, learned_radii, metrics, projection
from finetune_jax.config import fit_task
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.feeds import create_feed
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import config_of_run, data_config_of
from finetune_jax.models.card import Card, read_best, read_epochs
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.weights import pretrained
from finetune_jax.runs import assessment
from finetune_jax.runs import start as run_start
from finetune_jax.runs.evaluate import data_of_run, labels_for, of_data_set
from finetune_jax.training import evaluation, norm_statistics, radii, tasks

_IMAGES_OF_STEP = 64  # over all devices, from which radii are learned
_OF_RETRIEVAL = ("embedding", "retrieval")  # heads


@dataclasses.dataclass(frozen=True)
class Curve:
    """Networks on the way from one to another.

    Attributes:
        alphas: share of the run's weights in each.
        scores: ``{evaluation set: scores, one for each}``; the first set chose.
        chosen: place of the best, the larger share of the run's weights where several are equal.
        score_name: what the scores are, by the task of the run, such as ``accuracy`` or ``r2``.
    """

    alphas: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    chosen: int
    score_name: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "alphas": list(self.alphas),
            "score": self.score_name,
            "scores": {name: list(values) for name, values in self.scores.items()},
            "chosen_alpha": self.alphas[self.chosen],
        }


def interpolate(
    run: Path,
    alphas: Sequence[float],
    replicas: Replicas,
    *,
    start: Path | None = None,
    others: Sequence[str] = (),
    output: Path | None = None,
) -> Curve:
    """Networks between the one a run started from and the one it found.

    Args:
        run: directory of a run of a single network.
        alphas: shares of the run's weights, in [0, 1].
        replicas: where they are evaluated.
        start: another run directory to start from, of the same network and classes; by default the run's
            ``--pretrained`` weights with the run's own head.
        others: further data sets with the run's classes, of whose test images scores are measured too.
        output: directory for the network that validation chose, as ``finetune_jax.load`` takes it; None keeps none.

    Raises:
        UserError: the run, its start or a data set does not go with it.
    """
    card, end = _single_network_of(run)
    beginning = _start_of(run, card, end) if start is None else _same_network(run, card, start)
    judge = _Judge(run, card, replicas, others)
    networks = [_between(beginning, end, alpha) for alpha in alphas]
    scores: dict[str, list[float]] = {}
    candidates = [judge.with_statistics(network) for network in networks]
    for candidate in candidates:
        for name, score in judge.scores(candidate).items():
            scores.setdefault(name, []).append(score)
    chosen_by = next(iter(scores.values()))
    chosen = max(range(len(alphas)), key=lambda place: (chosen_by[place], alphas[place]))
    if output is not None:
        _write(output, judge.calibrated(candidates[chosen]), candidates[chosen], chosen_by[chosen], replicas)
    by_set = {name: tuple(values) for name, values in scores.items()}
    return Curve(tuple(alphas), by_set, chosen, judge.score_name)


@dataclasses.dataclass(frozen=True)
class Projection:
    """A run's network, put back towards the one it started from as far as validation images asked for.

    Attributes:
        kept: ``{part: share of the movement of its weights that stayed}``, 1 for all of it.
        scores: ``{network: {evaluation set: accuracy}}`` of ``start``, ``run`` and ``projected``.
    """

    kept: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "kept": dict(self.kept),
            "scores": {network: dict(scores) for network, scores in self.scores.items()},
        }


def project(
    run: Path,
    replicas: Replicas,
    *,
    steps: int = 200,
    rate: float = 0.01,
    start: Path | None = None,
    others: Sequence[str] = (),
    output: Path | None = None,
) -> Projection:
    """A run's network with each array within a radius of its start that is learned from validation images (TPGM).

    Args:
        run: as of :func:`interpolate`.
        replicas: where.
        steps: of the learning, each on a batch of validation images.
        rate: of Adam, a share of the largest movement of an array.
        start: as of :func:`interpolate`.
        others: as of :func:`interpolate`.
        output: as of :func:`interpolate`.

    Raises:
        UserError: the run, its start or a data set does not go with it.
    """
    card, end = _single_network_of(run)
    if card.task != "classification" or card.head in _OF_RETRIEVAL:
        raise UserError(
            f"--projection learns radii from the loss of a classifier, and --run={run} learned another task"
        )
    beginning = _start_of(run, card, end) if start is None else _same_network(run, card, start)
    judge = _Judge(run, card, replicas, others)
    feed, labels = judge.validation
    order = radii.batches(
        len(labels),
        steps,
        _IMAGES_OF_STEP,
        multiple=replicas.count,
        seed=config_of_run(run, FinetuneConfig).seed,
    )
    learned = radii.learn(
        beginning,
        end,
        network=card.network(norm_axis=AXIS),
        normalize=normalizer(card.mean, card.std),
        feed=feed,
        order=order,
        replicas=replicas,
        rate=rate,
    )
    moved, reference = ({name: tree["params"][name] for name in learned} for tree in (end, beginning))
    projected = jax.device_get(projection.project(moved, reference, learned))
    networks = {
        "start": _between(beginning, end, 0.0),
        "run": end,
        "projected": {**end, "params": {**end["params"], **projected}},
    }
    networks = {name: judge.with_statistics(network) for name, network in networks.items()}
    scores = {name: judge.scores(network) for name, network in networks.items()}
    if output is not None:
        _write(
            output,
            judge.calibrated(networks["projected"]),
            networks["projected"],
            scores["projected"]["validation"],
            replicas,
        )
    shares = learned_radii.kept(moved, reference, learned)
    kept = {name: float(np.mean(jax.tree.leaves(jax.device_get(tree)))) for name, tree in shares.items()}
    return Projection(kept, scores)


@dataclasses.dataclass(frozen=True)
class Soup:
    """An average of several networks.

    Attributes:
        chosen: numbers of the candidates in it, the best one first.
        scores: ``{evaluation set: score}``; the first set chose.
        score_name: what the scores are, by the task of the runs.
    """

    chosen: tuple[int, ...]
    scores: Mapping[str, float]
    score_name: str

    @property
    def score(self) -> float:
        """On the images that chose."""
        return next(iter(self.scores.values()))


def soup(
    runs: Sequence[Path],
    replicas: Replicas,
    *,
    others: Sequence[str] = (),
    output: Path | None = None,
) -> Soup:
    """A greedy soup of runs of one network on the same data, or of the epochs of a run that ``--keep_epochs`` kept.

    Args:
        runs: their directories; the first one's validation images judge. A single one stands for its epochs.
        replicas: where networks are evaluated.
        others: as of :func:`interpolate`.
        output: as of :func:`interpolate`.

    Raises:
        UserError: fewer than two networks, or they are not of one architecture and its classes.
    """
    card, first = _single_network_of(runs[0])
    candidates = [first, *[_same_network(runs[0], card, other) for other in runs[1:]]]
    if len(runs) == 1:
        card, candidates = read_epochs(runs[0])
    if len(candidates) < 2:
        raise UserError(
            f"--soup={runs[0]} is one network; give several run directories, separated by commas, or a run that was "
            "trained with --keep_epochs=5 or so"
        )
    judge = _Judge(runs[0], card, replicas, others)
    result = averaging.greedy_soup(candidates, lambda tree: judge.score(judge.with_statistics(tree)))
    tree = judge.with_statistics(result.tree)
    if output is not None:
        _write(output, judge.calibrated(tree), tree, result.score, replicas)
    return Soup(result.chosen, judge.scores(tree), judge.score_name)


class _Judge:
    """The images of a run, and what networks come to on them by the score of its task.

    Attributes:
        score_name: of that score.
    """

    def __init__(self, run: Path, card: Card, replicas: Replicas, others: Sequence[str]) -> None:
        self._card, self._replicas = card, replicas
        self._config = config_of_run(run, FinetuneConfig)
        self._retrieves = card.head in _OF_RETRIEVAL
        self.score_name = self._config.retrieval_score if self._retrieves else fit_task.SCORES[card.task]
        network, normalize = card.network(), normalizer(card.mean, card.std)
        config = data_config_of(run)
        source, _ = data_of_run(run, config, silent=not replicas.is_primary, anew=False)
        sets = {"validation": (config, source, "validation"), "test": (config, source, "test")}
        for name in others:
            other = of_data_set(config, name)
            sets[name] = (other, datasets.load_source(other, silent=not replicas.is_primary), "test")
        self._sets = {
            name: self._images(*where)
            for name, where in sets.items()
            if where[2] in where[1].splits and len(where[1].splits[where[2]].labels)
        }
        if "validation" not in self._sets:
            raise UserError(f"{run} has no validation images, by which a network could be chosen")
        training, images = self._feed(config, source, "train")
        self.with_statistics = norm_statistics.compile_estimate(
            network, normalize, training, len(images.labels), replicas
        )
        part = evaluation.embedder if self._retrieves else evaluation.classifier
        batch_size = evaluation.batch_size_for(*(len(y) for parts in self._sets.values() for _, y in parts))
        self._predict = evaluation.compile_evaluation(part(network, normalize), replicas, batch_size)

    @property
    def validation(self) -> tuple[Any, np.ndarray]:
        """Feed and labels of the validation images."""
        return self._sets["validation"][0]

    def score(self, variables: Variables) -> float:
        """On validation images."""
        return self._score(variables, "validation")

    def scores(self, variables: Variables) -> dict[str, float]:
        """``{evaluation set: score}``, validation first."""
        return {name: self._score(variables, name) for name in self._sets}

    def calibrated(self, variables: Variables) -> Card:
        """The card with the temperature, and thresholds of classes, that suit the validation images."""
        if self._retrieves:
            return self._card
        ((feed, labels),) = self._sets["validation"]
        outputs = self._predict(self._replicas.replicate(variables), feed, len(labels))
        fitted = assessment.fitted(self._card, outputs, labels)
        return Card.from_json({**self._card.to_json(), **fitted})

    def _score(self, variables: Variables, name: str) -> float:
        placed = self._replicas.replicate(variables)
        (outputs, labels), *gallery = [
            (self._predict(placed, feed, len(labels)), labels) for feed, labels in self._sets[name]
        ]
        if self._retrieves:
            task = tasks.Retrieval(self._config)
            return task.scores(outputs, labels, name, gallery[0] if gallery else None)[f"{name}_{task.score}"]
        if self._card.task == "classification":
            return metrics.accuracy(outputs, labels)
        return assessment.score(self._card, outputs, labels)

    def _feed(self, config: Any, source: Any, split: str) -> tuple[Any, Any]:
        arrays = datasets.materialise_split(
            config,
            source.splits[split],
            self._card.preprocessing,
            silent=not self._replicas.is_primary,
            title=f"decoding {split} images",
        )
        resident = arrays.images.nbytes <= config.device_data_gb * 1e9
        return create_feed(arrays, self._replicas, resident=resident, steps_per_dispatch=1), arrays

    def _images(self, config: Any, source: Any, split: str) -> list[tuple[Any, np.ndarray]]:
        """A split; of retrieval also what it is searched in, where that is not the split itself."""
        feed, arrays = self._feed(config, source, split)
        if not self._retrieves:
            return [(feed, labels_for(self._card, arrays.labels, source))]
        searched = ["gallery"] if split == "test" and "gallery" in source.splits else []
        parts = [(feed, arrays), *[self._feed(config, source, name) for name in searched]]
        return [(feed, arrays.labels) for feed, arrays in parts]


def _between(start: Variables, end: Variables, alpha: float) -> Variables:
    params = averaging.interpolate(start["params"], end["params"], alpha)
    # The statistics are estimated anew; those of the end are of the right shape.
    return {**end, "params": params}


def _single_network_of(run: Path) -> tuple[Card, Variables]:
    card, variables = read_best(run)
    if card.composition:
        raise UserError(
            f"--run={run} holds a {card.composition['kind']} network, which is more than one network"
        )
    # What was fitted to the outputs of the run is not that of a network between it and another.
    return dataclasses.replace(card, temperature=1.0, thresholds=()), variables


def _start_of(run: Path, card: Card, end: Variables) -> Variables:
    """The run's pretrained weights, its own head above them."""
    config = config_of_run(run, FinetuneConfig)
    if config.pretrained == "none" or config.method == "scratch":
        raise UserError(f"--run={run} started from random weights; name another start with --start")
    origin = run_start.load_origin(dataclasses.replace(config, bfloat16=False))
    origin = pretrained.at_image_size(origin, card.preprocessing.image_size)
    params = jax.device_get(origin.variables["params"])
    blocks = len(card.network().blocks)
    kept = {name: params[name] for name in end["params"] if name != "head"}
    if len(kept) != blocks + 1:
        raise UserError(f"--pretrained={config.pretrained} of {run} has other parts than the run")
    return {**end, "params": {**kept, "head": end["params"]["head"]}}


def _same_network(run: Path, card: Card, other: Path) -> Variables:
    """Variables of another run of the same network and classes."""
    other_card, variables = _single_network_of(other)
    for what, ours, theirs in (
        ("network", _identity(card), _identity(other_card)),
        ("classes", card.class_names, other_card.class_names),
        ("units of numbers", _units(card), _units(other_card)),
    ):
        if ours != theirs:
            raise UserError(
                f"{other} and {run} are of different {what}; only one network has weights to average"
            )
    return variables


def _identity(card: Card) -> tuple[Any, ...]:
    return card.architecture, card.width, card.blocks, card.head, card.task


def _units(card: Card) -> tuple[Any, ...]:
    """What outputs of a regression are multiplied by and added to: another for other training images."""
    return card.target_mean, card.target_deviation


def _write(output: Path, card: Card, variables: Variables, score: float, replicas: Replicas) -> None:
    with replicas.fail_together():
        saver = checkpoints.Checkpoints(output / "checkpoints", writable=replicas.is_primary, keep_all=True)
        saver.save(0, {"variables": jax.device_get(variables)}, card.to_json(), score=score)
        saver.close()
