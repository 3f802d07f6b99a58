"""Routing of SpotTune: every image through the copies of the blocks that its decisions name.

Shapes and decisions as in ``spottune``, which hands these names on.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Network(Protocol):
    """A network as a sequence of parts: ``stem``, blocks ``block_01 … block_KK``, ``head``."""

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of the blocks, from the input on."""
        ...

    def run(
        self,
        parts: Sequence[str],
        variables: Mapping[str, Mapping[str, Any]],
        x: jax.Array,
        *,
        train: bool | Collection[str] = False,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Run consecutive parts on ``x``; the output, and new statistics of parts in training mode."""
        ...


def route(decisions: jax.Array, tuned: jax.Array, frozen: jax.Array) -> jax.Array:
    """Eq. 2 for one block, shortcut included: ``d · tuned + (1 − d) · frozen`` per image.

    Decisions of 0 and 1 select the output bit for bit, whatever the other copy holds (the formula as written
    would lose the sign of zeros and spread infinities). The derivatives are those of the formula: ``d`` and
    ``1 − d`` for the two outputs, ``Σ (tuned − frozen)`` over an image for its decision. The last is what a
    straight-through estimator sends to the policy.

    Args:
        decisions: ``[B]``; any number type, values between 0 and 1 mix.
        tuned: ``[B, …]``, output of the fine-tuned copy.
        frozen: ``[B, …]``, output of the frozen copy.

    Returns:
        ``[B, …]`` of the dtype of ``tuned``.

    Raises:
        ValueError: shapes or dtypes of the outputs differ, or decisions are not one per image.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import spottune
        >>> spottune.route(jnp.array([1, 0]), tuned=jnp.full((2, 2), 5.0), frozen=jnp.zeros((2, 2))).tolist()
        [[5.0, 5.0], [0.0, 0.0]]
    """
    if tuned.shape != frozen.shape or tuned.dtype != frozen.dtype:
        raise ValueError(
            f"the tuned block returns {tuned.dtype}{list(tuned.shape)}, "
            f"the frozen one {frozen.dtype}{list(frozen.shape)}"
        )
    if decisions.shape != tuned.shape[:1]:
        column = "; give the column of this block, decisions[:, i]" if decisions.ndim == 2 else ""
        raise ValueError(
            f"decisions have the shape {decisions.shape}, and block outputs {tuned.shape} take one of {tuned.shape[:1]}"
            f"{column}"
        )
    if not jnp.issubdtype(decisions.dtype, jnp.floating):
        decisions = decisions.astype(tuned.dtype)
    return _mix(decisions.reshape(-1, *[1] * (tuned.ndim - 1)), tuned, frozen)


@jax.custom_jvp
def _mix(decisions: jax.Array, tuned: jax.Array, frozen: jax.Array) -> jax.Array:
    share = decisions.astype(tuned.dtype)
    mixed = share * tuned + (1 - share) * frozen
    return jnp.where(share == 1, tuned, jnp.where(share == 0, frozen, mixed))


@_mix.defjvp
def _mix_jvp(
    primals: tuple[jax.Array, jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    decisions, tuned, frozen = primals
    share = decisions.astype(tuned.dtype)
    # A decision's gradient sums over a whole image: not in the half precision of the activations.
    precise = jnp.promote_types(decisions.dtype, tuned.dtype)
    moved = tangents[0].astype(precise) * (tuned - frozen).astype(precise)
    tangent = share * tangents[1] + (1 - share) * tangents[2] + moved.astype(tuned.dtype)
    return _mix(decisions, tuned, frozen), tangent


def apply(
    network: Network,
    tuned: Mapping[str, Mapping[str, Any]],
    frozen: Mapping[str, Mapping[str, Any]],
    images: jax.Array,
    decisions: jax.Array,
    *,
    routed: Sequence[str] | None = None,
) -> jax.Array:
    """Logits of a routed network in evaluation mode (batch norm uses the statistics of each copy).

    With decisions all 1 these are the logits of ``tuned``, with all 0 those of the frozen blocks between stem
    and head of ``tuned``: the operations on an image are those of the blocks alone, whatever the other copy
    and the other images do. So they agree bit for bit, unless XLA fuses two separately compiled programs
    differently and thereby rounds differently.

    Args:
        network: the network of both copies.
        tuned: variables of stem, head and (at least) the routed blocks.
        frozen: variables of (at least) all blocks.
        images: ``[B, H, W, C]``, normalised.
        decisions: ``[B, L]``, 1 takes the fine-tuned copy, column ``l`` for block ``routed[l]``.
        routed: names of ``L`` blocks; all others are frozen (the Visual Decathlon's recipe freezes the first
            four). None routes every block.

    Returns:
        ``[B, num_classes]``, differentiable with respect to variables, images and decisions.

    Raises:
        ValueError: names that are no blocks of the network or given twice, or decisions of another shape.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import models, spottune
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> frozen = network.init(jax.random.key(0), images)
        >>> tuned = jax.tree.map(lambda leaf: 1.1 * leaf, frozen)
        >>> decisions = jnp.zeros((2, len(network.block_names)))
        >>> spottune.apply(network, tuned, frozen, images, decisions).shape
        (2, 5)
    """
    output, _ = features(network, tuned, frozen, images, decisions, routed=routed)
    logits, _ = network.run(("head",), tuned, output)
    return logits


class NewStatistics(NamedTuple):
    """Batch statistics after a pass through both copies.

    Attributes:
        tuned: ``{part: tree}`` of the stem and of the fine-tuned copies.
        frozen: ``{block: tree}`` of the frozen copies.
    """

    tuned: dict[str, Any]
    frozen: dict[str, Any]


def features(
    network: Network,
    tuned: Mapping[str, Mapping[str, Any]],
    frozen: Mapping[str, Mapping[str, Any]],
    images: jax.Array,
    decisions: jax.Array,
    *,
    routed: Sequence[str] | None = None,
    train_tuned: Collection[str] = (),
    train_frozen: Collection[str] = (),
    rngs: dict[str, jax.Array] | None = None,
    once: bool = False,
) -> tuple[jax.Array, NewStatistics]:
    """Output of the last block of a routed network; arguments and errors as of :func:`apply`, and:

    Args:
        train_tuned: the stem and fine-tuned copies that are in training mode. Each normalises over all images
            of the batch, also those that take the other copy.
        train_frozen: frozen copies in training mode.
        rngs: random streams of parts in training mode.
        once: run for every image only the copy it takes (paper, section 3.1), where nothing is in training
            mode: of a single image directly, of a large batch in groups that share a copy. Decisions of 0 and 1
            only, and they have no gradient. In between, both copies are as fast.

    Returns:
        ``[B, …]``, and the statistics of both copies, those of parts outside training mode unchanged.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import models, spottune
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> frozen = network.init(jax.random.key(0), images)
        >>> tuned = jax.tree.map(lambda leaf: 1.1 * leaf, frozen)
        >>> decisions = jnp.zeros((2, len(network.block_names)))
        >>> output, statistics = spottune.features(network, tuned, frozen, images, decisions)
        >>> output.shape, sorted(statistics.frozen)
        ((2, 1, 1, 32), ['block_01', 'block_02', 'block_03'])
    """
    routed = network.block_names if routed is None else tuple(routed)
    columns = {name: column for column, name in enumerate(routed)}
    unknown = sorted(set(routed) - set(network.block_names))
    if unknown or len(columns) < len(routed):
        raise ValueError(
            f"routed blocks must be different ones of {list(network.block_names)}, not {list(routed)}"
        )
    if decisions.shape != (images.shape[0], len(routed)):
        raise ValueError(
            f"decisions have the shape {decisions.shape}, "
            f"but there are {images.shape[0]} images and {len(routed)} routed blocks"
        )
    one_copy = None
    if once and not train_tuned and not train_frozen:
        one_copy = _one_copy if len(images) == 1 else _in_groups if len(images) >= _LARGE_BATCH else None
    statistics = NewStatistics({}, {})
    x, new = network.run(("stem",), tuned, images, train=train_tuned, rngs=rngs)
    statistics.tuned.update(new)
    for name in network.block_names:
        if one_copy and name in columns:
            statistics.tuned[name] = tuned["batch_stats"][name]
            statistics.frozen[name] = frozen["batch_stats"][name]
            x = one_copy(*_copies_of(network, name, tuned, frozen), x, decisions[:, columns[name]])
            continue
        output, new = network.run((name,), frozen, x, train=train_frozen, rngs=rngs)
        statistics.frozen.update(new)
        if name in columns:
            tuned_output, new = network.run((name,), tuned, x, train=train_tuned, rngs=rngs)
            statistics.tuned.update(new)
            output = route(decisions[:, columns[name]], tuned_output, output)
        x = output
    return x, statistics


def _one_copy(
    run: Callable[[Any, jax.Array], jax.Array],
    tuned_variables: Any,
    frozen_variables: Any,
    x: jax.Array,
    decisions: jax.Array,
) -> jax.Array:
    """Of a single image ``x [1, …]``; ``run`` and the variables as of :func:`_copies_of`."""
    return jax.lax.cond(
        decisions[0] == 1, lambda x: run(tuned_variables, x), lambda x: run(frozen_variables, x), x
    )


_GROUPS = 8
_LARGE_BATCH = 32  # four images in a group


def _in_groups(
    run: Callable[[Any, jax.Array], jax.Array],
    tuned_variables: Any,
    frozen_variables: Any,
    x: jax.Array,
    decisions: jax.Array,
) -> jax.Array:
    """Of ``x [B, …]``, sorted into groups of which each takes one copy.

    The images of one copy fill groups from the front, those of the other begin with the next group, and one
    group more than the batch fills always has room for both. So the work is that of ``1 + 1 / _GROUPS`` plain
    blocks, whatever the decisions.
    """
    size = -(-len(x) // _GROUPS)
    takes = decisions == 1
    tuned_groups = -(-takes.sum() // size)
    place = jnp.where(takes, jnp.cumsum(takes) - 1, tuned_groups * size + jnp.cumsum(~takes) - 1)
    # Places without an image compute the first one again.
    image_at = jnp.zeros((_GROUPS + 1) * size, jnp.int32).at[place].set(jnp.arange(len(x), dtype=jnp.int32))

    def group(of: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, images = of
        chosen = jax.tree.map(
            lambda a, b: jnp.where(index < tuned_groups, a, b), tuned_variables, frozen_variables
        )
        return run(chosen, x[images])

    # A loop and not one program per group: as fast, and three times faster to compile.
    outputs = jax.lax.map(group, (jnp.arange(_GROUPS + 1), image_at.reshape(_GROUPS + 1, size)))
    return outputs.reshape(-1, *outputs.shape[2:])[place]


def _copies_of(
    network: Network,
    name: str,
    tuned: Mapping[str, Mapping[str, Any]],
    frozen: Mapping[str, Mapping[str, Any]],
) -> tuple[Callable[[Any, jax.Array], jax.Array], Any, Any]:
    """``(variables of the block, x) → output`` of a block; variables of its fine-tuned and its frozen copy."""

    def run(variables: Any, x: jax.Array) -> jax.Array:
        return network.run((name,), {kind: {name: tree} for kind, tree in variables.items()}, x)[0]

    tuned_variables, frozen_variables = (
        {kind: trees[name] for kind, trees in copy.items()} for copy in (tuned, frozen)
    )
    return run, tuned_variables, frozen_variables
