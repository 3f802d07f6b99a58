"""A network with two copies of its blocks, and a policy that decides per image which copy to take.

Written once over the block sequence of any :class:`Network`. The parts of a routed network are those of the
network, of which the routed blocks are the fine-tuned copies, then ``frozen_BLOCK`` for every routed block, and
``policy``, whose trees hold a whole policy network.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import spottune
from finetune_jax.models import registry
from finetune_jax.models.network import Network, Variables

POLICY = "policy"
"""Name of the part that holds the policy network."""

KIND = "routed"
"""What a checkpoint's card calls such a composition."""

NORMS = "norms_of_"
"""How the names of parts begin that hold the norm parameters of a frozen part."""

_FROZEN = "frozen_"

ALWAYS_TUNED = 3
"""Blocks at the top that the random policy always tunes."""


@dataclasses.dataclass(frozen=True)
class RoutedNetwork:
    """SpotTune's network (Guo et al., CVPR 2019); holds no parameters.

    Attributes:
        network: of both copies.
        policy: gives two outputs per routed block; None draws decisions at random, half of them for
            fine-tuning, but always fine-tunes the last :data:`ALWAYS_TUNED` blocks.
        first: number of blocks nearest to the input that are frozen and not routed.
        all_tuned: evaluate every image on the fine-tuned path, whatever the policy says.
        norms_apart: norm parameters of frozen parts are parts of their own, so that they can be trained.
        draw: number of the sample by which evaluation draws from the policy; None takes the likelier decision
            of every block. A draw depends on this number and on the image, not on the batch around it.
    """

    network: Network
    policy: Network | None
    first: int = 0
    all_tuned: bool = False
    norms_apart: bool = False
    draw: int | jax.Array | None = None

    @property
    def head_name(self) -> str:
        """Of the network's head."""
        return self.network.head_name

    @property
    def routed(self) -> tuple[str, ...]:
        """Names of the L routed blocks."""
        return self.network.block_names[self.first :]

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of the parts that stay as pretrained: what is below the routed blocks, and their frozen copies."""
        below = ("stem", *self.network.block_names[: self.first])
        return (*below, *[_FROZEN + name for name in self.routed])

    @property
    def norm_parts(self) -> tuple[str, ...]:
        """Names of the parts that hold the norm parameters of frozen parts."""
        return tuple(NORMS + name for name in self.frozen_parts) if self.norms_apart else ()

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Names of the parts that are not frozen, in network order."""
        return (*self.routed, "head", *self.norm_parts, *[POLICY] * (self.policy is not None))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of all parts."""
        copies = [_FROZEN + name for name in self.routed]
        policy = [POLICY] * (self.policy is not None)
        return (*self.network.part_names, *copies, *self.norm_parts, *policy)

    def to_json(self) -> dict[str, Any]:
        """What :func:`from_json` needs beside the network."""
        return {
            "kind": KIND,
            "policy": None if self.policy is None else self.policy.architecture,
            "first": self.first,
            "all_tuned": self.all_tuned,
            "norms_apart": self.norms_apart,
        }

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``, without computing anything."""
        policy = None if self.policy is None else self.policy.shapes()
        return self._composed(self.network.shapes(), policy)

    def start(self, variables: Variables, key: jax.Array, images: jax.ShapeDtypeStruct) -> Variables:
        """Variables before training: both copies as given, the policy fresh.

        Args:
            variables: of the network.
            key: random key of the policy.
            images: ``[B, H, W, C]``; only the shape counts.
        """
        policy = None if self.policy is None else self.policy.init(key, images)
        return self._composed(variables, policy)

    def copies(self, variables: Mapping[str, Mapping[str, Any]]) -> tuple[Variables, Variables]:
        """Variables of the fine-tuned and of the frozen network, ``(tuned, frozen)``.

        Blocks below the routed ones, stem and head are the same in both.
        """
        whole: Variables = {
            "params": dict(variables["params"]),
            "batch_stats": dict(variables["batch_stats"]),
        }
        for name in self.norm_parts:
            part = name.removeprefix(NORMS)
            whole["params"][part] = _merged(whole["params"][part], whole["params"][name])
        tuned = {
            kind: {name: trees[name] for name in self.network.part_names} for kind, trees in whole.items()
        }
        frozen = {
            kind: {**tuned[kind], **{name: trees[_FROZEN + name] for name in self.routed}}
            for kind, trees in whole.items()
        }
        return tuned, frozen

    def decisions(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """What evaluation decides for ``images [B, H, W, C]`` (normalised): ``[B, L]``, 1 for fine-tuning."""
        shape = (len(images), len(self.routed))
        if self.all_tuned:
            return jnp.ones(shape, jnp.float32)
        if self.policy is None:
            keys = _image_keys(0 if self.draw is None else self.draw, images)
            return random_decisions(keys, len(self.routed))
        logits = self.policy_logits(variables, images)[0]
        if self.draw is None:
            return spottune.likely_decisions(logits)
        return jax.vmap(spottune.sample_decisions)(_image_keys(self.draw, images), logits)

    def policy_logits(
        self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, Any]:
        """The policy's ``[B, L, 2]``, and its batch statistics, new ones in training mode."""
        if self.policy is None:
            raise ValueError("random decisions have no logits")
        policy_variables = {kind: trees[POLICY] for kind, trees in variables.items()}
        flat, statistics = self.policy.run(self.policy.part_names, policy_variables, images, train=train)
        return spottune.policy_logits(flat), statistics

    def apply(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """Logits ``[B, num_classes]`` of ``images [B, H, W, C]`` (normalised, float32), evaluation mode."""
        logits, _ = self.network.run(("head",), variables, self._features(variables, images))
        return logits

    def embed(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """What the classifier sees of each image, ``[B, C]`` float32, evaluation mode."""
        return self.network.pool(variables, self._features(variables, images))

    def compact(self, variables: Mapping[str, Mapping[str, Any]], chosen: Sequence[str]) -> Variables:
        """Variables of the plain network for one decision per block, the same for all images.

        Args:
            variables: of the routed network.
            chosen: names of the routed blocks to take from the fine-tuned copy.
        """
        tuned, frozen = self.copies(variables)
        return {
            kind: {**trees, **{name: tuned[kind][name] for name in chosen}} for kind, trees in frozen.items()
        }

    def new_statistics(self, statistics: spottune.NewStatistics) -> dict[str, Any]:
        """Batch statistics of both copies under the names of the parts."""
        copies = {_FROZEN + name: statistics.frozen[name] for name in self.routed}
        below = {name: statistics.frozen[name] for name in self.network.block_names[: self.first]}
        return {**statistics.tuned, **below, **copies}

    def _features(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        tuned, frozen = self.copies(variables)
        decisions = self.decisions(variables, images)
        output, _ = spottune.features(
            self.network, tuned, frozen, images, decisions, routed=self.routed, once=True
        )
        return output

    def _composed(self, variables: Mapping[str, Mapping[str, Any]], policy: Any) -> Variables:
        whole: Variables = {}
        for kind, trees in variables.items():
            whole[kind] = {**trees, **{_FROZEN + name: trees[name] for name in self.routed}}
            if policy is not None:
                whole[kind][POLICY] = policy[kind]
        for name in self.norm_parts:
            part = name.removeprefix(NORMS)
            whole["params"][part], whole["params"][name] = _split(whole["params"][part])
            whole["batch_stats"][name] = {}
        return whole


def from_json(values: Mapping[str, Any], network: Network) -> RoutedNetwork:
    """The routed network around ``network`` that :meth:`RoutedNetwork.to_json` describes."""
    policy = None
    if values["policy"] is not None:
        policy = policy_for(network, values["policy"], len(network.blocks) - values["first"])
    return RoutedNetwork(network, policy, values["first"], values["all_tuned"], values["norms_apart"])


def policy_for(network: Network, architecture: str, routed: int) -> Network:
    """A policy network as wide as ``network``, with two outputs for each of ``routed`` blocks.

    Raises:
        UserError: no such architecture.
    """
    numerics = network.numerics
    return registry.create(
        architecture,
        2 * routed,
        channels=network.channels,
        width=network.width,
        dtype=numerics.dtype,
        norm_momentum=numerics.norm_momentum,
        norm_axis=numerics.norm_axis,
        rematerialise=numerics.rematerialise,
    )


def random_decisions(keys: jax.Array, routed: int) -> jax.Array:
    """Decisions ``[B, routed]`` of the random policy, each image's drawn with its own of ``keys [B]``."""
    drawn = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (routed,)))(keys)
    return drawn.astype(jnp.float32).at[:, -ALWAYS_TUNED:].set(1.0)


def _image_keys(draw: int | jax.Array, images: jax.Array) -> jax.Array:
    """Random keys ``[B]`` made of a number and of what is in each image."""
    bits = jax.lax.bitcast_convert_type(images.astype(jnp.float32).reshape(len(images), -1), jnp.uint32)
    # Odd factors, different at every pixel: equal pixels at other places give another sum.
    factors = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    sums = (bits * factors).sum(1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), sums)


def _is_norm(tree: Any) -> bool:
    # A layer with nothing but these; a dense layer has a bias too, but beside its kernel.
    return isinstance(tree, Mapping) and bool(tree) and set(tree) <= {"scale", "bias"}


def _split(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A part's parameters without those of its norms, and those of its norms."""
    rest: dict[str, Any] = {}
    norms: dict[str, Any] = {}
    for name, value in tree.items():
        if _is_norm(value):
            norms[name] = value
        elif isinstance(value, Mapping):
            inner_rest, inner_norms = _split(value)
            rest |= {name: inner_rest} if inner_rest else {}
            norms |= {name: inner_norms} if inner_norms else {}
        else:
            rest[name] = value
    return rest, norms


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that :func:`_split` took apart."""
    merged = dict(one)
    for name, value in other.items():
        merged[name] = _merged(merged[name], value) if name in merged else value
    return merged
