"""Checkpoints whose arrays are in shares over the devices: how they are noted, checked and put together.

Orbax writes such an array as rows, one of each device, every process those of its own devices; whoever reads gets all
rows, whatever devices he has.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from finetune_jax.devices import cluster, shares
from finetune_jax.files import digests

_CARD = "shares"


def card(replicas: int, processes: int) -> dict[str, Any]:
    """What the JSON of a checkpoint says of its shares.

    >>> card(8, 2)
    {'shares': {'replicas': 8, 'processes': 2}}
    """
    return {_CARD: {"replicas": replicas, "processes": processes}}


def are_in(meta: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is in shares, from its JSON."""
    return _CARD in meta


def joined(like: Any, saved: Any, meta: Mapping[str, Any]) -> Any:
    """Whole arrays.

    Args:
        like: tree of arrays with the shapes of the whole ones.
        saved: the tree as it was saved; of an array in shares all rows, the others as they are.
        meta: JSON of the checkpoint.

    Raises:
        ValueError: the rows are of arrays with other shapes.
    """
    count = int(meta[_CARD]["replicas"])

    def of(path: Any, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if rows.ndim == target.ndim:
            return rows
        if rows.shape != (count, *shares.share_shape(target.shape, count)):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"{name} is in shares of {rows[:1].size} elements, not those of {target.shape}")
        return shares.joined(rows, target.shape)

    return jax.tree_util.tree_map_with_path(of, like, saved)


def digests_of(items: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """``{item: {path: digests}}`` of arrays of which each process has its rows: one digest of every process.

    All processes of the job call it.

    Args:
        items: trees of arrays; of one that is in shares each process has its own rows.
    """
    local_digests = {name: digests.of_tree(jax.tree.map(_local_rows, tree)) for name, tree in items.items()}
    job = cluster.active()
    of_all = (
        [local_digests]
        if job is None
        else [json.loads(text) for text in job.gather(json.dumps(local_digests))]
    )
    return {
        name: {path: [each[name][path] for each in of_all] for path in local_digests[name]}
        for name in local_digests
    }


def check(tree: Any, recorded: Mapping[str, list[str]]) -> None:
    """Compare a tree as it was saved with the digests of its rows.

    Raises:
        ValueError: an array is not what was saved.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        of_rows = recorded.get(name, [])
        is_whole = bool(of_rows) and digests.of_array(leaf) == of_rows[0]
        if not is_whole and of_rows and leaf.ndim and len(leaf) % len(of_rows) == 0:
            is_whole = [digests.of_array(rows) for rows in np.split(leaf, len(of_rows))] == list(of_rows)
        if not is_whole:
            raise ValueError(f"the array {name} is not what was saved")


def _local_rows(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        by_row = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in by_row])
    return np.asarray(leaf)
