"""A network of which only small parts are trained: low-rank adapters beside its kernels, its norms, or its biases.

Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), section 4.1; Ben Zaken et al.,
"BitFit" (ACL 2022). Written over the block sequence of any :class:`Network`. A part with something to train holds just
that under its own name, and its pretrained parameters as ``frozen_PART``; so rates, layer decay and schedules of blocks
work as they do for whole blocks. :meth:`AdaptedNetwork.merged` makes the plain network of both.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from finetune_jax.errors import UserError
from finetune_jax.models.network import Network, Variables

KIND = "adapted"
"""What a checkpoint's card calls such a composition."""

LORA, NORMS, BIASES = "lora", "norms", "biases"

_FROZEN = "frozen_"
_DOWN, _UP = "down", "up"


@dataclasses.dataclass(frozen=True)
class AdaptedNetwork:
    """A pretrained network and what is trained beside it; holds no parameters.

    Attributes:
        network: the plain one.
        adapts: :data:`LORA`, :data:`NORMS` or :data:`BIASES`.
        rank: of the adapters of LoRA.
        alpha: their products count ``alpha / rank``.
        targets: words of which a kernel's path holds one to get an adapter; empty adapts all kernels of the blocks.
    """

    network: Network
    adapts: str
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()

    @property
    def head_name(self) -> str:
        """Of the network's head."""
        return self.network.head_name

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the parts below the head that have something to train."""
        params = self.network.shapes()["params"]
        return tuple(name for name in self.network.part_names[:-1] if self._selected(name, params[name]))

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """Names of the parts that are not frozen, in network order."""
        return (*self.adapted, "head")

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of all parts."""
        return (*self.network.part_names, *[_FROZEN + name for name in self.adapted])

    def to_json(self) -> dict[str, Any]:
        """What :func:`from_json` needs beside the network."""
        values = dataclasses.asdict(dataclasses.replace(self, network=None))  # type: ignore[arg-type]
        return {"kind": KIND, **{name: value for name, value in values.items() if name != "network"}}

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``, without computing anything."""
        return jax.eval_shape(
            lambda variables: self.start(variables, jax.random.key(0)), self.network.shapes()
        )

    def start(self, variables: Variables, key: jax.Array) -> Variables:
        """Variables before training, of which the merged network is the one given.

        Args:
            variables: of the network, pretrained.
            key: random key of the adapters.

        Raises:
            UserError: the rank is larger than a matrix, or there is nothing to train.
        """
        names = self.adapted
        if not names:
            what = f"--lora_targets={','.join(self.targets)}" if self.targets else f"--method={self.adapts}"
            raise UserError(
                f"{what}: {self.network.architecture} has nothing below its head that this trains"
            )
        params, batch_stats = dict(variables["params"]), dict(variables["batch_stats"])
        for number, name in enumerate(names):
            whole = params[name]
            selected = self._selected(name, whole)
            if self.adapts == LORA:
                keys = jax.random.split(jax.random.fold_in(key, number), len(selected))
                made = {
                    path: self._adapter(k, path, leaf)
                    for k, (path, leaf) in zip(keys, selected.items(), strict=True)
                }
                params[name], params[_FROZEN + name] = _nested(made), whole
            else:
                params[name], params[_FROZEN + name] = _nested(selected), _without(whole, selected)
            batch_stats[_FROZEN + name] = {}
        return {"params": params, "batch_stats": batch_stats}

    def merged(self, variables: Mapping[str, Mapping[str, Any]]) -> Variables:
        """Variables of the plain network, with what is trained in its place."""
        params = dict(variables["params"])
        for name in self.adapted:
            small, whole = params[name], params.pop(_FROZEN + name)
            params[name] = (
                self._with_adapters(whole, small) if self.adapts == LORA else _combined(whole, small)
            )
        kept = {name: variables["batch_stats"][name] for name in self.network.part_names}
        return {"params": params, "batch_stats": kept}

    def apply(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """Outputs ``[B, …]`` of ``images [B, H, W, C]`` (normalised, float32), evaluation mode."""
        return self.network.apply(self.merged(variables), images)

    def embed(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """What the classifier sees of each image, ``[B, C]`` float32, evaluation mode."""
        return self.network.embed(self.merged(variables), images)

    def _selected(self, part: str, tree: Any) -> dict[tuple[str, ...], Any]:
        """``{path: leaf}`` of what is trained, or adapted, in a part."""
        choose: Callable[[tuple[str, ...], Any], bool]
        if self.adapts == LORA:
            if not part.startswith("block_"):
                return {}
            choose = self._is_target
        elif self.adapts == NORMS:
            layers = {path[:-1] for path, _ in _leaves(tree) if path[-1] == "kernel"}
            choose = lambda path, leaf: path[-1] in ("scale", "bias") and path[:-1] not in layers  # noqa: E731
        else:
            choose = lambda path, leaf: path[-1] == "bias"  # noqa: E731
        return {path: leaf for path, leaf in _leaves(tree) if choose(path, leaf)}

    def _is_target(self, path: tuple[str, ...], leaf: Any) -> bool:
        # A kernel with one input channel is of a depthwise convolution, which has no matrix.
        if path[-1] != "kernel" or len(leaf.shape) not in (2, 4) or leaf.shape[-2] == 1:
            return False
        name = "/".join(path)
        return not self.targets or any(word in name for word in self.targets)

    def _adapter(self, key: jax.Array, path: tuple[str, ...], kernel: Any) -> dict[str, jax.Array]:
        """Random ``down [..., in, r]`` and ``up [r, out]`` of zeros (section 4.1; uniform as PyTorch's layers)."""
        *window, inputs, outputs = kernel.shape
        if self.rank > min(inputs, outputs):
            raise UserError(
                f"--lora_rank={self.rank} is larger than the matrix of {'/'.join(path[:-1])}, {inputs} × {outputs}; "
                f"give at most {min(inputs, outputs)}, or --lora_targets without it"
            )
        bound = 1 / math.sqrt(inputs * math.prod(window))
        down = jax.random.uniform(key, (*window, inputs, self.rank), jnp.float32, -bound, bound)
        return {_DOWN: down, _UP: jnp.zeros((self.rank, outputs), jnp.float32)}

    def _with_adapters(self, whole: Any, adapters: Any) -> Any:
        merged = {}
        for name, value in whole.items():
            beside = adapters.get(name) if isinstance(adapters, Mapping) else None
            if beside is None:
                merged[name] = value
            elif _DOWN in beside and not isinstance(beside[_DOWN], Mapping):
                merged[name] = value + (self.alpha / self.rank) * (beside[_DOWN] @ beside[_UP])
            else:
                merged[name] = self._with_adapters(value, beside)
        return merged


def from_json(values: Mapping[str, Any], network: Network) -> AdaptedNetwork:
    """The adapted network around ``network`` that :meth:`AdaptedNetwork.to_json` describes."""
    return AdaptedNetwork(
        network, values["adapts"], values["rank"], values["alpha"], tuple(values["targets"])
    )


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for name, value in tree.items() for leaf in _leaves(value, (*path, name))]


def _nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = leaf
    return tree


def _without(tree: Any, leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    return _nested({path: leaf for path, leaf in _leaves(tree) if path not in leaves})


def _combined(tree: Any, other: Any) -> dict[str, Any]:
    return _nested({**dict(_leaves(tree)), **dict(_leaves(other))})
