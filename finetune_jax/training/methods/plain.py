"""Methods that train some parts of the network itself: all, the head, the top blocks, blocks drawn at random."""

import dataclasses
from typing import Self

import numpy as np

from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.models.network import Network
from finetune_jax.training import objectives
from finetune_jax.training.methods.method import Base, Method, check_k


@dataclasses.dataclass(frozen=True)
class Standard(Method):
    """All parts are trained, from the pretrained weights."""

    @classmethod
    def trained_parts(cls, config: FinetuneConfig, network: Network) -> tuple[str, ...]:
        """Names of the trained parts in network order; all others are frozen.

        Raises:
            UserError: the network has too few blocks.
        """
        del config
        return network.part_names

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """The network as it is; see :meth:`Method.create`."""
        network = base.network
        trained = cls.trained_parts(config, network)
        in_training_mode = network.part_names if config.frozen_norm == "train" else trained
        if config.from_probe:
            statistics = base.variables["batch_stats"]
            in_training_mode = tuple(name for name in trained if not statistics.get(name))
        return cls(network, network, base.variables, trained, objectives.forward(network, in_training_mode))


@dataclasses.dataclass(frozen=True)
class Scratch(Standard):
    """All parts are trained, from random weights."""

    from_pretrained = False


@dataclasses.dataclass(frozen=True)
class FeatureExtractor(Standard):
    """Only the head is trained."""

    @classmethod
    def trained_parts(cls, config: FinetuneConfig, network: Network) -> tuple[str, ...]:
        """The head."""
        del config, network
        return ("head",)


@dataclasses.dataclass(frozen=True)
class LastK(Standard):
    """The top ``--k`` blocks and the head are trained."""

    @classmethod
    def trained_parts(cls, config: FinetuneConfig, network: Network) -> tuple[str, ...]:
        """The top blocks and the head."""
        check_k(config.k, len(network.blocks), network)
        return (*network.block_names[-config.k :], "head")


@dataclasses.dataclass(frozen=True)
class Stochastic(Standard):
    """Half of the blocks, drawn at random with ``--seed``, and the head are trained."""

    @classmethod
    def trained_parts(cls, config: FinetuneConfig, network: Network) -> tuple[str, ...]:
        """The drawn blocks and the head."""
        blocks = network.block_names
        drawn = np.random.default_rng(config.seed).choice(
            len(blocks), max(1, len(blocks) // 2), replace=False
        )
        return (*[blocks[index] for index in sorted(drawn)], "head")
