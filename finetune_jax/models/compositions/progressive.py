"""A progressive network: a frozen pretrained column, and a new column that also reads the frozen one's features.

Source: Rusu et al., "Progressive Neural Networks" (2016), Eq. 1, between the blocks of any :class:`Network`. As
a baseline of SpotTune (section 4.1) the frozen column is the pretrained network. The paper does not say where the
new column starts; here it starts from the pretrained weights too, and the lateral connections from zero, so that
the first step is the one of standard fine-tuning.

Parts are those of the network for the new column, ``column_PART`` for the frozen one, and ``lateral_PART`` for what
every part above the stem gets from it.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.models.network import Network, Variables

KIND = "progressive"
"""What a checkpoint's card calls such a composition."""

_COLUMN, _LATERAL = "column_", "lateral_"


@dataclasses.dataclass(frozen=True)
class ProgressiveNetwork:
    """Two columns of the same network; holds no parameters.

    Attributes:
        network: of both columns; the frozen one has no head.
    """

    network: Network

    @property
    def head_name(self) -> str:
        """Of the network's head."""
        return self.network.head_name

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Names of the parts of the frozen column."""
        return tuple(_COLUMN + name for name in self.network.part_names[:-1])

    @property
    def laterals(self) -> tuple[str, ...]:
        """Names of the lateral connections."""
        return tuple(_LATERAL + name for name in self.network.part_names[1:])

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Names of the parts that are not frozen."""
        return (*self.network.part_names, *self.laterals)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of all parts."""
        return (*self.trained_parts, *self.frozen_parts)

    def to_json(self) -> dict[str, Any]:
        """What :func:`from_json` needs beside the network."""
        return {"kind": KIND}

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``, without computing anything."""
        return jax.eval_shape(self.start, self.network.shapes())

    def start(self, variables: Variables) -> Variables:
        """Variables before training: both columns as given, no influence between them."""
        whole: Variables = {}
        for kind, trees in variables.items():
            column = {_COLUMN + name: trees[name] for name in self.network.part_names[:-1]}
            whole[kind] = {**trees, **column, **{name: {} for name in self.laterals}}
        for name, channels in zip(self.laterals, self._channels(variables), strict=True):
            whole["params"][name] = {"kernel": jnp.zeros((channels, channels), jnp.float32)}
        return whole

    def run(
        self,
        variables: Mapping[str, Mapping[str, Any]],
        images: jax.Array,
        *,
        train: Collection[str] = (),
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        """Both columns on ``images [B, H, W, C]``.

        Args:
            variables: of all parts.
            images: normalised, float32.
            train: names of the parts in training mode, of both columns.
            rngs: Linen random streams of parts in training mode.

        Returns:
            Output of the head, output of the new column's last block, batch statistics of all parts that have
            some.
        """
        network = self.network
        column = {
            kind: {name: trees[_COLUMN + name] for name in network.part_names[:-1]}
            for kind, trees in variables.items()
        }
        in_column = {name.removeprefix(_COLUMN) for name in train if name.startswith(_COLUMN)}
        x, batch_stats = network.run(("stem",), variables, images, train=train, rngs=rngs)
        below, updated = network.run(("stem",), column, images, train=in_column, rngs=rngs)
        of_column = dict(updated)
        for name in network.block_names:
            x = self._joined(name, variables, x, below)
            x, updated = network.run((name,), variables, x, train=train, rngs=rngs)
            batch_stats |= updated
            below, updated = network.run((name,), column, below, train=in_column, rngs=rngs)
            of_column |= updated
        joined = self._joined("head", variables, x, below)
        outputs, updated = network.run(("head",), variables, joined, train=train, rngs=rngs)
        batch_stats |= updated
        return outputs, x, {**batch_stats, **{_COLUMN + name: tree for name, tree in of_column.items()}}

    def apply(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """Logits ``[B, num_classes]`` of ``images [B, H, W, C]`` (normalised, float32), evaluation mode."""
        return self.run(variables, images)[0]

    def embed(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """What the classifier sees of the new column, ``[B, C]`` float32, evaluation mode."""
        return self.network.pool(variables, self.run(variables, images)[1])

    def _joined(
        self, name: str, variables: Mapping[str, Mapping[str, Any]], x: jax.Array, below: jax.Array
    ) -> jax.Array:
        """Input of a part: the new column's features and a linear map, pixel by pixel, of the frozen one's."""
        kernel = variables["params"][_LATERAL + name]["kernel"].astype(x.dtype)
        return x + jnp.einsum("...i,io->...o", below.astype(x.dtype), kernel)

    def _channels(self, variables: Variables) -> list[int]:
        """Of the features that each part above the stem reads."""
        shapes = []
        x = jax.ShapeDtypeStruct(self.network.example_shape, jnp.float32)
        for name in self.network.part_names[:-1]:
            x = jax.eval_shape(lambda v, x, name=name: self.network.run((name,), v, x)[0], variables, x)
            shapes.append(x.shape[-1])
        return shapes


def from_json(values: Mapping[str, Any], network: Network) -> ProgressiveNetwork:
    """The progressive network around ``network``; ``values`` of :meth:`ProgressiveNetwork.to_json`."""
    del values
    return ProgressiveNetwork(network)
