"""What a method makes of a network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_jax.algorithms import spottune
from finetune_jax.errors import UserError
from finetune_jax.models.compositions.progressive import ProgressiveNetwork
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.models.network import Model, Network, Variables
from finetune_jax.training import objectives


def trained_parts(network: Network, method: str, k: int = 1, seed: int = 0) -> tuple[str, ...]:
    """Names of the network's parts that ``method`` trains, in network order; all others are frozen.

    Methods that compose a model of several networks have trained parts of their own, see :func:`setup`.

    Args:
        network: with blocks ``block_01 … block_KK``.
        method: ``standard``, ``l2_sp``, ``autolr`` and ``scratch`` train everything, ``feature_extractor`` the
            head only, ``last_k`` the top ``k`` blocks and the head, ``stochastic`` half of the blocks, drawn at
            random, and the head.
        k: number of blocks of ``last_k``.
        seed: of the blocks of ``stochastic``.

    Raises:
        UserError: ``k`` is larger than the number of blocks, or the method is not known.
    """
    blocks = network.block_names
    if method in ("standard", "l2_sp", "autolr", "scratch"):
        return network.part_names
    if method == "feature_extractor":
        return ("head",)
    if method == "last_k":
        check_k(k, len(blocks), network)
        return (*blocks[-k:], "head")
    if method == "stochastic":
        drawn = np.random.default_rng(seed).choice(len(blocks), max(1, len(blocks) // 2), replace=False)
        return (*[blocks[index] for index in sorted(drawn)], "head")
    raise UserError(f"--method={method} is not known")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a method makes of a network.

    Attributes:
        network: the plain one.
        model: what is trained; itself the plain network, or composed of networks.
        variables: before training, of everything that the steps see.
        trained: names of the parts that are trained.
        forward: images to outputs in training mode.
        totals: names of what ``forward`` sums up over the examples of an epoch.
        references: names of parts of ``variables`` that are not of the model.
        tuned_blocks: how many blocks the result takes from the fine-tuned copy, the same for all images; None
            where the model itself is the result.
    """

    network: Network
    model: Model
    variables: Variables
    trained: tuple[str, ...]
    forward: objectives.Forward
    totals: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    tuned_blocks: int | None = None

    @property
    def measured(self) -> Model:
        """What is evaluated, and what prediction uses."""
        return self.model if self.tuned_blocks is None else self.network

    @property
    def composition(self) -> dict[str, Any]:
        """Of ``model``, for the card."""
        return self.model.to_json() if isinstance(self.model, RoutedNetwork | ProgressiveNetwork) else {}

    def result(self, variables: Variables, usage: Mapping[str, float]) -> Variables:
        """Variables for ``measured``, with what is trained beside the network.

        Args:
            variables: as trained.
            usage: ``{block: share of the epoch's images that were fine-tuned}``.
        """
        if self.tuned_blocks is None or not isinstance(self.model, RoutedNetwork):
            return variables
        compact = self.model.compact(variables, spottune.most_used(usage, self.tuned_blocks))
        of_model = self.model.part_names
        beside = {name: tree for name, tree in variables["params"].items() if name not in of_model}
        return {**compact, "params": {**compact["params"], **beside}}


def check_k(k: int, count: int, network: Network) -> None:
    """Refuse a ``--k`` above the number of blocks.

    Raises:
        UserError: says how many blocks there are.
    """
    if k > count:
        routed = "" if count == len(network.blocks) else " that are not frozen"
        raise UserError(f"--k={k}: {network.architecture} has only {count} blocks{routed}")
