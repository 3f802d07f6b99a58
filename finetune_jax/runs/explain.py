"""Grad-CAM of finished runs: at several blocks, over several runs, and from trial to trial of AutoLR."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.data.decode import Preprocessing, preprocess, read_image
from finetune_jax.data.pixels import shown
from finetune_jax.errors import UserError, readable
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models import grad_cam
from finetune_jax.models.card import Card, read_best, variables_of
from finetune_jax.models.compositions.adapted import AdaptedNetwork
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.models.network import Network, Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.reports import figures
from finetune_jax.reports.figures.activation_maps import Part
from finetune_jax.runs import labelling
from finetune_jax.runs.predict import Predictor

_SCORES: Mapping[str, grad_cam.Score] = {
    "ordinal": grad_cam.summed_logits,
    "regression": grad_cam.logit_of(0),
}
"""What is explained of tasks without a predicted class."""
_BLOCKS_SHOWN = 4
_NAME_LENGTH = 24


class Route(NamedTuple):
    """Which copy of a block an image takes.

    Attributes:
        block: its name.
        tuned: whether the fine-tuned one.
        chance: of that, as the policy gives it; None where it is drawn without looking.
    """

    block: str
    tuned: bool
    chance: float | None


class Explainer:
    """A trained network that says which places of an image speak for a class."""

    def __init__(self, card: Card, variables: Variables) -> None:
        """Take it into use.

        Args:
            card: of the checkpoint.
            variables: what it says.

        Raises:
            UserError: it is not one network but several side by side.
        """
        model = card.model()
        if not isinstance(model, Network | RoutedNetwork | AdaptedNetwork):
            raise UserError(
                f"Grad-CAM looks into one network, and a {card.composition['kind']} one is more than one; give a "
                "--run of another method"
            )
        self.card = card
        self._routed = model if isinstance(model, RoutedNetwork) else None
        self._network = model if isinstance(model, Network) else model.network
        self._variables = model.merged(variables) if isinstance(model, AdaptedNetwork) else variables
        self._normalize = normalizer(card.mean, card.std)
        self._compiled: dict[tuple[Any, ...], Any] = {}

    @property
    def blocks(self) -> tuple[str, ...]:
        """The first block, the last, and two in between."""
        known = self._network.block_names
        places = np.unique(np.linspace(0, len(known) - 1, min(_BLOCKS_SHOWN, len(known))).round().astype(int))
        return tuple(known[place] for place in places)

    def maps(
        self, images: np.ndarray, blocks: Sequence[str], of_class: int | None = None
    ) -> dict[str, np.ndarray]:
        """``{block: [N, h, w] in [0, 1]}``.

        Args:
            images: uint8 ``[N, S, S, 3]`` as the network sees them.
            blocks: names.
            of_class: whose logit is explained; by default that of the predicted one, of grades what speaks for a higher
                one, of numbers the first. Embeddings have no classes.
        """
        single = self._routed is not None  # every image has a network of its own
        rows = [images[i : i + 1] for i in range(len(images))] if single else [images]
        function = self._function(tuple(blocks), of_class is not None)
        heat_maps = [function(self._plain(row), jnp.asarray(row), of_class or 0) for row in rows]
        return {name: np.concatenate([np.asarray(one[name]) for one in heat_maps]) for name in blocks}

    def routes(self, image: np.ndarray) -> list[Route]:
        """Which copies an image uint8 ``[S, S, 3]`` takes, block by block; empty for other methods than SpotTune's."""
        routed = self._routed
        if routed is None:
            return []
        ready = self._normalize(jnp.asarray(image[None]))
        tuned = np.asarray(routed.decisions(self._variables, ready))[0]
        chances: Any = [None] * len(tuned)
        if routed.policy is not None and not routed.all_tuned:
            logits, _ = routed.policy_logits(self._variables, ready)
            chances = map(float, np.asarray(jax.nn.softmax(logits))[0, :, 1])
        return [
            Route(name, bool(decision), chance)
            for name, decision, chance in zip(routed.routed, tuned, chances, strict=True)
        ]

    def _plain(self, image: np.ndarray) -> Variables:
        """Variables of the plain network that the image goes through."""
        if self._routed is None:
            return self._variables
        chosen = [route.block for route in self.routes(image[0]) if route.tuned]
        return self._routed.compact(self._variables, chosen)

    def _function(self, blocks: tuple[str, ...], of_number: bool) -> Any:
        key = (blocks, of_number)
        if key not in self._compiled:
            self._compiled[key] = jax.jit(functools.partial(self._explain, blocks, of_number))
        return self._compiled[key]

    def _explain(
        self, blocks: tuple[str, ...], of_number: bool, variables: Any, images: jax.Array, number: jax.Array
    ) -> dict[str, jax.Array]:
        # A retrieval network's classifier knows other classes than those of the images.
        score: grad_cam.Score = grad_cam.embedding_norm
        if self.card.head == "classifier":
            score = (
                grad_cam.logit_of(number)
                if of_number
                else _SCORES.get(self.card.task, grad_cam.predicted_logit)
            )
        return grad_cam.grad_cams(self._network, variables, self._normalize(images), blocks, score)


def seen_part(preprocessing: Preprocessing, height: int, width: int) -> Part:
    """The part of an image of that size that the network sees.

    >>> seen_part(Preprocessing(224, 256), 100, 400)
    (0.0625, 0.0625, 0.9375, 0.9375)
    >>> seen_part(Preprocessing(50, 50, "shorter_side"), 100, 200)
    (0.25, 0.0, 0.75, 1.0)
    """
    across = down = preprocessing.image_size / preprocessing.resize
    if preprocessing.mode == "shorter_side":
        shorter = min(height, width)
        across, down = across * shorter / width, down * shorter / height
    return (0.5 - across / 2, 0.5 - down / 2, 0.5 + across / 2, 0.5 + down / 2)


def of_blocks(
    run: Path, paths: Sequence[Path], blocks: Sequence[str] = (), class_name: str | None = None
) -> bytes:
    """A row per image and a column per block, of a run's best checkpoint, as PNG.

    Args:
        run: its directory.
        paths: of the images.
        blocks: names; by default the first, the last and two in between.
        class_name: whose logit is explained; by default that of the class that each image is taken for.

    Raises:
        UserError: no such run, block or class, or an image cannot be read.
    """
    card, variables = read_best(run)
    explainer = Explainer(card, variables)
    number = _class_number(run, card, class_name)
    photos = _photos(card, paths)
    ready = _prepared(card, photos)
    maps = explainer.maps(ready, _checked_blocks(run, card, explainer, blocks), number)
    return _grid(card, photos, maps, _row_names(card, variables, paths, ready))


def of_runs(runs: Sequence[Path], paths: Sequence[Path], class_name: str | None = None) -> bytes:
    """A row per image and a column per run, each at its last block, as PNG: Figure 5 of AutoLR.

    Raises:
        UserError: as of :func:`of_blocks`.
    """
    maps, photos = {}, []
    for run in runs:
        card, variables = read_best(run)
        explainer = Explainer(card, variables)
        photos = _photos(card, paths)
        (last,) = explainer.maps(
            _prepared(card, photos), explainer.blocks[-1:], _class_number(run, card, class_name)
        ).values()
        maps[f"{run.name}\n{card.blocks} blocks"] = last
    return _grid(card, photos, maps, [_shown_name(path) for path in paths])


def of_trials(run: Path, paths: Sequence[Path], epoch: int, blocks: Sequence[str] = ()) -> dict[str, bytes]:
    """For each block a row per image and a column per trial of an epoch, as PNG: Figure 6 of AutoLR.

    Args:
        run: of ``--method=autolr --keep_trials``.
        paths: of the images.
        epoch: 1-based.
        blocks: as of :func:`of_blocks`.

    Raises:
        UserError: the weights of these trials were not kept, or as of :func:`of_blocks`.
    """
    card, variables = read_best(run)
    names = _checked_blocks(run, card, Explainer(card, variables), blocks)
    directory = RunDirectory(run)
    photos = _photos(card, paths)
    ready = _prepared(card, photos)
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for number, row in enumerate(directory.read_passes()):
        if int(row["epoch"]) != epoch:
            continue
        saved = checkpoints.restore_item(directory.trials, number, "variables", card.saved_shapes())
        if saved is None:
            raise UserError(f"--run={run} kept no weights of its trials; train with --keep_trials")
        title = f"trial {row['trial']}\nquality {float(row['sorting_quality']):.2f}"
        for name, heat in Explainer(card, variables_of(card, saved)).maps(ready, names).items():
            columns[name][title] = heat
    if not columns[names[0]]:
        raise UserError(f"--run={run} has no epoch {epoch}")
    file_names = [_shown_name(path) for path in paths]
    return {name: _grid(card, photos, maps, file_names) for name, maps in columns.items()}


def _photos(card: Card, paths: Sequence[Path]) -> list[np.ndarray]:
    return [read_image(path, decoding=card.preprocessing.decoding) for path in paths]


def _prepared(card: Card, photos: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([preprocess(photo, card.preprocessing) for photo in photos])


def _grid(
    card: Card, photos: Sequence[np.ndarray], maps: Mapping[str, np.ndarray], row_names: Sequence[str]
) -> bytes:
    named = {title.replace("block_", "block "): heat for title, heat in maps.items()}
    parts = [seen_part(card.preprocessing, *photo.shape[:2]) for photo in photos]
    return figures.grad_cam_grid([shown(photo) for photo in photos], named, row_names=row_names, parts=parts)


def _row_names(card: Card, variables: Variables, paths: Sequence[Path], ready: np.ndarray) -> list[str]:
    """File, what it is taken for, and the true class where the image lies in a folder of its name."""
    if card.head != "classifier":
        return [_shown_name(path) for path in paths]
    names = []
    for path, row in zip(paths, Predictor(card, variables).of_prepared(ready), strict=True):
        name = f"{_shown_name(path)}\n{labelling.words(card, row)}"
        truth = path.absolute().parent.name
        known = card.task in ("classification", "ordinal") and truth in card.class_names
        names.append(f"{name}\ntrue: {truth}" if known else name)
    return names


def _shown_name(path: Path) -> str:
    return readable(path.name, _NAME_LENGTH)


def _class_number(run: Path, card: Card, class_name: str | None) -> int | None:
    if class_name is None:
        return None
    if card.head != "classifier":
        raise UserError(f"--class={class_name}: {run} learned embeddings and no classes; leave it out")
    if card.task == "ordinal":
        raise UserError(
            f"--class={class_name}: the grades of {run} are one scale; leave it out for what speaks for a higher one"
        )
    if class_name not in card.class_names:
        raise UserError(f"--class={class_name}: {run} knows {', '.join(card.class_names[:20])}")
    return card.class_names.index(class_name)


def _checked_blocks(run: Path, card: Card, explainer: Explainer, blocks: Sequence[str]) -> tuple[str, ...]:
    known = card.network().block_names
    for name in blocks:
        if name not in known:
            raise UserError(f"--blocks: {run} has no {name}, only {known[0]} to {known[-1]}")
    return tuple(blocks) or explainer.blocks
