"""A network as a sequence: ``stem``, ``block_01 … block_KK``, ``head``.

Every method of this package (per-block rates, pruning, routing, freezing, Grad-CAM) is written once against
this sequence and knows nothing of architectures.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.devices import shares
from finetune_jax.models.layers import convolution, stochastic_depth
from finetune_jax.models.layers.basic import Numerics, global_average
from finetune_jax.models.layers.rematerialisation import Run, after, rematerialised
from finetune_jax.models.options import Options, TokenGrid

Variables = dict[str, dict[str, Any]]
"""``{"params": {part: tree}, "batch_stats": {part: tree}}`` with the part names as keys of both."""

Pooling = Callable[[jax.Array], jax.Array]
"""``output of the last block → embeddings [B, C]``; its layers are those of the head that calls it."""

TorchPrefix = str | tuple[str, ...]
"""What the names of a layer's entries begin with; several of them stand one behind the other in one layer here."""

_ANY_SIZE = 64  # of images, where no parameter depends on it


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
        """What the classifier sees of each image, ``[B, C]`` float32, evaluation mode."""


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
        pooling: layers of the head before its classifier, which every head of the network has.
        pointwise: layers whose matrices are 1×1 convolutions there.
        broadcast: layers whose vectors have three axes of one element in front there.
        classifier_optional: published states come without a classifier; a fresh one takes its place.
    """

    stem: Mapping[str, TorchPrefix]
    blocks: tuple[Mapping[str, TorchPrefix], ...]
    head: Mapping[str, TorchPrefix]
    pointwise_classifier: bool = False
    ignored: tuple[str, ...] = ()
    pooling: Mapping[str, TorchPrefix] = dataclasses.field(default_factory=dict)
    pointwise: tuple[str, ...] = ()
    broadcast: tuple[str, ...] = ()
    classifier_optional: bool = False


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
        image_size: side of the images that it is made for; None where no parameter depends on it.
        tokens: of a network whose blocks hand on tokens, how they stand for the image; None for images.
        pooling: how the head pools, before its classifier.
        options: what was chosen of the architecture.
        drop_path_rates: of stochastic depth in each block, those of the published depth; empty for none.
        with_part_below: what layer decay counts with the part below it, as timm does: ``block_NN``, or a layer of the
            head as ``head/LAYER``.
        channels: of its images.
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
    image_size: int | None = None
    tokens: TokenGrid | None = None
    pooling: Pooling = global_average
    options: Options = dataclasses.field(default_factory=Options)
    drop_path_rates: tuple[float, ...] = ()
    with_part_below: tuple[str, ...] = ()
    channels: int = 3

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """``(1, H, W, C)`` of an image that it takes."""
        side = self.image_size or _ANY_SIZE
        return (1, side, side, self.channels)

    @property
    def block_names(self) -> tuple[str, ...]:
        """``("block_01", …, "block_KK")``."""
        return tuple(f"block_{i:02d}" for i in range(1, len(self.blocks) + 1))

    @property
    def part_names(self) -> tuple[str, ...]:
        """``("stem", "block_01", …, "block_KK", "head")``."""
        return ("stem", *self.block_names, "head")

    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The blocks in order, those together whose outputs have the same shape: a transformer is one stage."""
        variables = self.shapes()
        x = jax.ShapeDtypeStruct(self.example_shape, jnp.float32)
        shapes = []
        for name in ("stem", *self.block_names):
            x = jax.eval_shape(lambda tree, x, name=name: self.run((name,), tree, x)[0], variables, x)
            shapes.append(x.shape)
        grouped = itertools.groupby(zip(self.block_names, shapes[1:], strict=True), key=lambda pair: pair[1])
        return tuple(tuple(name for name, _ in pairs) for _, pairs in grouped)

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
        for name, part_variables in zip(
            self.part_names, self._init_parts(self.part_names, key, images.shape), strict=True
        ):
            for kind, tree in variables.items():
                tree[name] = part_variables.get(kind, {})
        return variables

    def init_head(self, key: jax.Array) -> Any:
        """Parameters of the head alone, equal to those :meth:`init` gives for the same key."""
        return self.fresh_head(key)["params"]

    def fresh_head(self, key: jax.Array) -> dict[str, Any]:
        """``{"params": tree, "batch_stats": tree}`` of the head alone, as :meth:`init` gives it."""
        (head_variables,) = self._init_parts(("head",), key, self.example_shape)
        return {"params": head_variables["params"], "batch_stats": head_variables.get("batch_stats", {})}

    def _init_parts(self, names: Sequence[str], key: jax.Array, shape: tuple[int, ...]) -> list[Any]:
        # On CPU every threefry draw of a new shape is compiled for about half a second; "rbg" is ten times
        # faster to compile, and parts of equal configuration share one program.
        key = jax.random.wrap_key_data(jax.random.bits(key, (4,), jnp.uint32), impl="rbg")
        initialised = []
        for index, name in enumerate(self.part_names):
            module = self.part(name)
            if name in names:
                initialised.append(_init_part(module, jax.random.fold_in(key, index), shape))
            _, shape = _abstract_part(module, shape)
        return initialised

    def shapes(self) -> Variables:
        """The variables as ``jax.ShapeDtypeStruct``, without computing anything."""
        return jax.tree.map(lambda shape: shape, _shapes(self))  # whose dictionaries the caller may change

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
            rngs: random streams for parts in training mode: a key ``dropout``, and for stochastic depth
                ``drop_path``, one key or keys ``[B]`` of the examples.

        Returns:
            Output of the last part, and the batch statistics of all parts named.
        """
        training = set(parts if train is True else train or ())
        batch_stats = {}
        before: jax.Array | None = None  # input of the part before
        for name in parts:
            part_variables = {
                kind: variables[kind][name] for kind in ("params", "batch_stats") if variables[kind][name]
            }
            statistics = variables["batch_stats"][name]
            run: Run = functools.partial(
                _run_part, self.part(name), name in training, convolution.runs_on_cpu()
            )
            axis = self.numerics.parameter_axis
            if axis is not None:
                if before is not None and "params" in part_variables:
                    # Nothing else keeps a compiler from bringing all parts together at once. This leaves it one ahead.
                    part_variables["params"] = after(before, part_variables["params"])
                before = x
                run = rematerialised(_gathering(run, self._part_shapes(name), axis), gathers=True)
            elif self.numerics.rematerialise:
                run = rematerialised(run)
            x, updated = run(
                part_variables, x, self._streams(name, len(x), rngs) if name in training else None
            )
            statistics = updated.get("batch_stats", statistics)
            batch_stats[name] = statistics
        return x, batch_stats

    def _streams(self, name: str, examples: int, rngs: dict[str, jax.Array] | None) -> dict[str, Any] | None:
        """Random streams of one part, with what stochastic depth needs where the part has any."""
        streams: dict[str, Any] | None = rngs and {key: rng for key, rng in rngs.items() if key != _DROP_PATH}
        if name not in self.block_names or not self.options.drop_path:
            return streams
        if not rngs or _DROP_PATH not in rngs:
            raise ValueError("a network with drop_path needs rngs={'drop_path': key} in training mode")
        index = self.block_names.index(name)
        keys = stochastic_depth.example_keys(rngs[_DROP_PATH], examples, index)
        return {**(streams or {}), _DROP_PATH: stochastic_depth.collection(self.drop_path_rates[index], keys)}

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
        """What the architecture's classifier sees of each image, ``[B, C]`` float32, evaluation mode.

        That is the pooled output of the last block, and where the pooling has a norm of its own before or behind it
        (transformers, ConvNeXt), with that: timm's ``forward_head(…, pre_logits=True)``. A batch norm in the head
        (ResNet-26, ResNet-V2, DenseNet) belongs to the classifier and is left out.
        """
        features, _ = self.run(self.part_names[:-1], variables, images)
        return self.pool(variables, features)

    def _part_shapes(self, name: str) -> Any:
        """Shapes of the whole parameters of a part."""
        return _shapes(self)["params"][name]

    def pool(self, variables: Mapping[str, Mapping[str, Any]], features: jax.Array) -> jax.Array:
        """:meth:`embed` of the output of the last block."""
        params = variables["params"].get("head", {})
        if self.numerics.parameter_axis is not None:
            params = shares.gathered(params, self._part_shapes("head"), self.numerics.parameter_axis)
        pooled: Any = _Pooled(self.pooling).apply({"params": params}, features)
        return pooled


class _Pooled(nn.Module):
    """The pooling of a head alone, with the same names of layers."""

    pooling: Pooling

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pooling(x)


def _gathering(run: Run, shapes: Any, axis_name: str) -> Run:
    """``run`` for parameters in shares."""

    def function(variables: Any, x: jax.Array, rngs: Any) -> tuple[jax.Array, Any]:
        params = shares.gathered(variables.get("params", {}), shapes, axis_name)
        return run({**variables, "params": params}, x, rngs)

    return function


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run_part(
    module: nn.Module,
    train: bool,
    for_cpu: bool,
    variables: Any,
    x: jax.Array,
    rngs: dict[str, Any] | None,
) -> tuple[jax.Array, Any]:
    """Output of a part, and its new batch statistics if it has any and is in training mode.

    Jitted by itself, so that it is traced once for all programs and all equal parts; XLA makes the same of it.

    Args:
        for_cpu: what layers ask for when they are traced, ``convolution.runs_on_cpu()``: a trace holds for one answer.
    """
    if rngs and _DROP_PATH in rngs:
        variables = {**variables, **rngs[_DROP_PATH]}
        rngs = {key: rng for key, rng in rngs.items() if key != _DROP_PATH}
    output: Any = module.apply(variables, x, train, rngs=rngs, mutable=["batch_stats"] if train else False)
    return output if train else (output, {})


Builder = Callable[[str, int, float, Numerics, Options], Network]
"""``(architecture, number of classes, width, numerics, options) → network``.

The network's own ``options`` are those that the architecture has.
"""

PlainBuilder = Callable[[str, int, float, Numerics], Network]
"""A builder of networks without options."""

_DROP_PATH = stochastic_depth.COLLECTION


@functools.partial(jax.jit, static_argnums=(0, 2))
def _init_part(module: nn.Module, key: jax.Array, shape: tuple[int, ...]) -> Any:
    return module.init(key, jnp.zeros(shape, jnp.float32), False)


@functools.lru_cache(maxsize=64)  # a start asks for those of the same few networks fifty times
def _shapes(network: Network) -> Variables:
    variables: Variables = {"params": {}, "batch_stats": {}}
    shape: tuple[int, ...] = network.example_shape
    for name in network.part_names:
        part_variables, shape = _abstract_part(network.part(name), shape)
        for kind, tree in variables.items():
            tree[name] = part_variables.get(kind, {})
    return variables


@functools.lru_cache(maxsize=1024)
def _abstract_part(module: nn.Module, shape: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """Variables of a part as ``jax.ShapeDtypeStruct``, and the shape of its output, from one trace."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    output, variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), x)
    return variables, output.shape
