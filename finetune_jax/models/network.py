"""A network as a sequence: ``stem``, ``block_01 … block_KK``, ``head``.

Every method of this package (per-block rates, pruning, routing, freezing, Grad-CAM) is written once against
this sequence and knows nothing of architectures.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.basic import Numerics, global_average
from finetune_jax.models.layers.rematerialisation import Run, rematerialised

Variables = dict[str, dict[str, Any]]
"""``{"params": {part: tree}, "batch_stats": {part: tree}}`` with the part names as keys of both."""

_ANY_IMAGES = (1, 64, 64, 3)  # no parameter depends on the size of the images


class Model(Protocol):
    """What prediction and evaluation ask of a network, or of what is composed of networks."""

    @property
    def head_name(self) -> str:
        """``classifier`` for the architecture's own head, else one of ``models.heads``."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Keys of both collections of the variables."""

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``."""

    def apply(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> Any:
        """Outputs ``[B, …]`` of ``images [B, H, W, C]`` (normalised, float32), evaluation mode."""

    def embed(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """Pooled output of the last block, ``[B, C]`` float32, evaluation mode."""


@dataclasses.dataclass(frozen=True)
class TorchNames:
    """Where a PyTorch state keeps each layer: ``{layer name in the part: prefix in the state}`` per part.

    A network without its top blocks has more entries in ``blocks`` than blocks.

    Attributes:
        stem: layers of the stem.
        blocks: layers of each block.
        head: layers of the head.
        pointwise_classifier: the classifier is a 1×1 convolution there.
        ignored: beginnings of the names of entries that belong to no part, such as an auxiliary classifier's.
    """

    stem: Mapping[str, str]
    blocks: tuple[Mapping[str, str], ...]
    head: Mapping[str, str]
    pointwise_classifier: bool = False
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Network:
    """Parts of a network and how to run them; holds no parameters.

    Every part is a Linen module called as ``module(x, train)``. The head maps the last block's output to
    logits ``[B, num_classes]``.

    Attributes:
        architecture: name given to ``models.create``.
        stem: everything before the first block.
        blocks: one array in, one array out, the one nearest to the input first.
        head: everything after the last block.
        width: factor on all channel numbers.
        num_classes: outputs of the head.
        torch_names: names of the same layers in a PyTorch state.
        head_name: ``classifier`` for the architecture's own head, else one of ``models.heads``.
        numerics: how its layers compute.
        other_torch_names: other such namings that are read but not written.
    """

    architecture: str
    width: float
    num_classes: int
    stem: nn.Module
    blocks: tuple[nn.Module, ...]
    head: nn.Module
    torch_names: TorchNames = dataclasses.field(repr=False, compare=False)
    other_torch_names: tuple[TorchNames, ...] = dataclasses.field(default=(), repr=False, compare=False)
    head_name: str = "classifier"
    numerics: Numerics = dataclasses.field(default_factory=Numerics)

    @property
    def block_names(self) -> tuple[str, ...]:
        """``("block_01", …, "block_KK")``."""
        return tuple(f"block_{i:02d}" for i in range(1, len(self.blocks) + 1))

    @property
    def part_names(self) -> tuple[str, ...]:
        """``("stem", "block_01", …, "block_KK", "head")``."""
        return ("stem", *self.block_names, "head")

    def with_num_classes(self, num_classes: int) -> "Network":
        """The same network with a head of ``num_classes`` outputs."""
        head = self.head.clone(num_classes=num_classes)
        return dataclasses.replace(self, num_classes=num_classes, head=head)

    def part(self, name: str) -> nn.Module:
        """The Linen module of one part.

        Raises:
            KeyError: the network has no part of that name.
        """
        parts = dict(zip(self.part_names, (self.stem, *self.blocks, self.head), strict=True))
        return parts[name]

    def init(self, key: jax.Array, images: jax.Array | jax.ShapeDtypeStruct) -> Variables:
        """Fresh variables, float32.

        Args:
            key: random key.
            images: ``[B, H, W, C]``; only the shape counts.
        """
        variables: Variables = {"params": {}, "batch_stats": {}}
        for name, own in zip(
            self.part_names, self._init_parts(self.part_names, key, images.shape), strict=True
        ):
            for kind, tree in variables.items():
                tree[name] = own.get(kind, {})
        return variables

    def init_head(self, key: jax.Array) -> Any:
        """Parameters of the head alone, equal to those :meth:`init` gives for the same key."""
        return self.fresh_head(key)["params"]

    def fresh_head(self, key: jax.Array) -> dict[str, Any]:
        """``{"params": tree, "batch_stats": tree}`` of the head alone, as :meth:`init` gives it."""
        (own,) = self._init_parts(("head",), key, _ANY_IMAGES)
        return {"params": own["params"], "batch_stats": own.get("batch_stats", {})}

    def _init_parts(self, names: Sequence[str], key: jax.Array, shape: tuple[int, ...]) -> list[Any]:
        # On CPU every threefry draw of a new shape is compiled for about half a second; "rbg" is ten times
        # faster to compile, and parts of equal configuration share one program.
        key = jax.random.wrap_key_data(jax.random.bits(key, (4,), jnp.uint32), impl="rbg")
        initialised = []
        for index, name in enumerate(self.part_names):
            module = self.part(name)
            if name in names:
                initialised.append(_init_part(module, jax.random.fold_in(key, index), shape))
            shape = _output_shape(module, shape)
        return initialised

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``, without computing anything."""
        images = jax.ShapeDtypeStruct(_ANY_IMAGES, jnp.float32)
        return jax.eval_shape(self.init, jax.random.key(0), images)

    def run(
        self,
        parts: Sequence[str],
        variables: Mapping[str, Mapping[str, Any]],
        x: jax.Array,
        *,
        train: bool | Collection[str] = False,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Run consecutive parts on ``x``.

        Args:
            parts: names in order.
            variables: of (at least) these parts.
            x: input of the first of them.
            train: True, False, or the names of the parts that normalise with batch statistics; all others
                use their running statistics and leave them as they are.
            rngs: Linen random streams (``dropout``) for parts in training mode.

        Returns:
            Output of the last part, and the batch statistics of all parts named.
        """
        training = set(parts if train is True else train or ())
        batch_stats = {}
        for name in parts:
            own = {kind: variables[kind][name] for kind in ("params", "batch_stats") if variables[kind][name]}
            statistics = variables["batch_stats"][name]
            run: Run = functools.partial(_run_part, self.part(name), name in training)
            if self.numerics.rematerialise:
                run = rematerialised(run)
            x, updated = run(own, x, rngs if name in training else None)
            statistics = updated.get("batch_stats", statistics)
            batch_stats[name] = statistics
        return x, batch_stats

    def apply(
        self,
        variables: Mapping[str, Mapping[str, Any]],
        images: jax.Array,
        *,
        train: bool | Collection[str] = False,
        rngs: dict[str, jax.Array] | None = None,
    ) -> Any:
        """Logits ``[B, num_classes]`` of ``images [B, H, W, C]`` (normalised, float32).

        Returns:
            The logits where ``train`` is False, else ``(logits, batch_stats)`` with the statistics to keep;
            ``train`` and ``rngs`` as in :meth:`run`.
        """
        logits, batch_stats = self.run(self.part_names, variables, images, train=train, rngs=rngs)
        return logits if train is False else (logits, batch_stats)

    def embed(self, variables: Mapping[str, Mapping[str, Any]], images: jax.Array) -> jax.Array:
        """Pooled output of the last block, ``[B, C]`` float32, evaluation mode."""
        features, _ = self.run(self.part_names[:-1], variables, images)
        return global_average(features)


def _run_part(
    module: nn.Module, train: bool, variables: Any, x: jax.Array, rngs: dict[str, jax.Array] | None
) -> tuple[jax.Array, Any]:
    """Output of a part, and its new batch statistics if it has any and is in training mode."""
    output: Any = module.apply(variables, x, train, rngs=rngs, mutable=["batch_stats"] if train else False)
    return output if train else (output, {})


Builder = Callable[[str, int, float, Numerics], Network]
"""``(architecture, number of classes, width, numerics) → network``."""


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init_part(module: nn.Module, key: jax.Array, shape: tuple[int, ...]) -> Any:
    return module.init(key, jnp.zeros(shape, jnp.float32), False)


@functools.lru_cache(maxsize=1024)
def _output_shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    output, _ = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), x)
    return output.shape
