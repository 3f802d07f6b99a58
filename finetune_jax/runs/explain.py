"""Grad-CAM of finished runs: at several blocks, over several runs, and from trial to trial of AutoLR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.data.decode import preprocess, read_image
from finetune_jax.data.pixels import shown
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models import grad_cam
from finetune_jax.models.card import Card, read_best, variables_of
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.reports import figures

_BLOCKS_SHOWN = 4


def of_blocks(run: Path, paths: Sequence[Path], blocks: Sequence[str] = ()) -> bytes:
    """A row per image and a column per block, of a run's best checkpoint, as PNG.

    Args:
        run: its directory.
        paths: of the images.
        blocks: names; by default the first, the last and two in between.

    Raises:
        UserError: no such run or block, or an image cannot be read.
    """
    card, variables = read_best(run)
    maps = _maps(card, variables, paths, _checked_blocks(run, card, blocks))
    return _grid(card, paths, maps)


def of_runs(runs: Sequence[Path], paths: Sequence[Path]) -> bytes:
    """A row per image and a column per run, each at its last block, as PNG: Figure 5 of AutoLR.

    Raises:
        UserError: as of :func:`of_blocks`.
    """
    maps = {}
    for run in runs:
        card, variables = read_best(run)
        (last,) = _maps(card, variables, paths, card.network().block_names[-1:]).values()
        maps[f"{run.name}\n{card.blocks} blocks"] = last
    return _grid(card, paths, maps)


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
    card, _ = read_best(run)
    names = _checked_blocks(run, card, blocks)
    directory = RunDirectory(run)
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    for number, row in enumerate(directory.read_passes()):
        if int(row["epoch"]) != epoch:
            continue
        saved = checkpoints.restore_item(directory.trials, number, "variables", card.saved_shapes())
        if saved is None:
            raise UserError(f"--run={run} kept no weights of its trials; train with --keep_trials")
        title = f"trial {row['trial']}\nquality {float(row['sorting_quality']):.2f}"
        for name, heat in _maps(card, variables_of(card, saved), paths, names).items():
            columns[name][title] = heat
    if not columns[names[0]]:
        raise UserError(f"--run={run} has no epoch {epoch}")
    return {name: _grid(card, paths, maps) for name, maps in columns.items()}


def _maps(
    card: Card, variables: Variables, paths: Sequence[Path], blocks: Sequence[str]
) -> dict[str, np.ndarray]:
    if card.composition:
        raise UserError(
            f"Grad-CAM looks into one network, and a {card.composition['kind']} one is more than one; give a --run "
            "of another method"
        )
    network, normalize = card.network(), normalizer(card.mean, card.std)
    # A retrieval network's classifier knows other classes than those of the images.
    score = grad_cam.predicted_logit if card.head == "classifier" else grad_cam.embedding_norm

    def explain(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return grad_cam.grad_cams(network, variables, normalize(images), blocks, score)

    return jax.device_get(jax.jit(explain)(variables, jnp.asarray(_images(card, paths))))


def _images(card: Card, paths: Sequence[Path]) -> np.ndarray:
    decoding = card.preprocessing.decoding
    return np.stack([preprocess(read_image(path, decoding=decoding), card.preprocessing) for path in paths])


def _grid(card: Card, paths: Sequence[Path], maps: dict[str, np.ndarray]) -> bytes:
    named = {title.replace("block_", "block "): heat for title, heat in maps.items()}
    return figures.grad_cam_grid(shown(_images(card, paths)), named)


def _checked_blocks(run: Path, card: Card, blocks: Sequence[str]) -> tuple[str, ...]:
    known = card.network().block_names
    if not blocks:
        places = np.unique(np.linspace(0, len(known) - 1, min(_BLOCKS_SHOWN, len(known))).round().astype(int))
        return tuple(known[place] for place in places)
    for name in blocks:
        if name not in known:
            raise UserError(f"--blocks: {run} has no {name}, only {known[0]} to {known[-1]}")
    return tuple(blocks)
