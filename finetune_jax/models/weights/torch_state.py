"""Variables from and to the state dictionaries of PyTorch models.

A state is ``{name: numpy array}`` with the names of torchvision or timm (which agree for ResNets), of the
reference ResNet-26, or others that a network lists. Convolution weights are OIHW there and HWIO here, dense
weights ``[out, in]`` (as a convolution ``[out, in, 1, 1]``) there and ``[in, out]`` here.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.models.layers.positions import resampled
from finetune_jax.models.network import Network, TorchNames, TorchPrefix, Variables
from finetune_jax.models.weights import hugging_face

_CLASSIFIER = "classifier"
_LEAVES = {
    "kernel": ".weight",
    "scale": ".weight",
    "bias": ".bias",
    "mean": ".running_mean",
    "var": ".running_var",
    # Not entries of a layer but layers by themselves.
    "token": "",
    "embedding": "",
    "gamma": "",
    "offset": "",
}
"""What the name of an entry has behind its layer's."""
_TABLES = ("token", "embedding")
"""Leaves that have an axis of one image in front there."""


class _Place(NamedTuple):
    """One array: its name and shape in the state, and its path in the variables.

    Attributes:
        torch_name: of the entry.
        torch_shape: of the entry.
        kind: collection of the variables.
        part: of the network.
        layer: in the part.
        leaf: in the layer.
        piece: this entry's number among the ``pieces`` that stand one behind the other in the leaf.
        pieces: their number.
        is_matrix: the leaf has two axes, whatever the entry has.
    """

    torch_name: str
    torch_shape: tuple[int, ...]
    kind: str
    part: str
    layer: str
    leaf: str
    piece: int = 0
    pieces: int = 1
    is_matrix: bool = False


def from_torch_state(
    network: Network, state: Mapping[str, np.ndarray], *, copy: str = "blocks", key: jax.Array | None = None
) -> Variables:
    """Variables of ``network`` with the values of a PyTorch state.

    Args:
        network: the architecture the state belongs to; the number of classes may differ.
        state: ``{name: array}``; ``num_batches_tracked`` is ignored, and so is an auxiliary classifier that the
            network does not have (Inception-V3's).
        copy: ``"blocks"`` or ``"parallel_blocks"``, which of the two copies of a SpotTune ResNet-26 state to
            take; without meaning for other states.
        key: for the freshly initialised classifier where the state has another number of classes.

    Returns:
        ``{"params": …, "batch_stats": …}`` in float32.

    Raises:
        UserError: entries are missing, surplus or of another shape; all of them are listed.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> variables = network.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
        >>> again = models.from_torch_state(network, models.to_torch_state(network, variables))
        >>> kernels = [tree["params"]["head"]["classifier"]["kernel"] for tree in (variables, again)]
        >>> bool((kernels[0] == kernels[1]).all())
        True
    """
    state = hugging_face.as_timm(state)
    names = _naming_of(network, state)
    state = _select_copy(_of_parts(state, names), copy)
    places = list(_places(network, names))
    fresh = {place for place in places if _has_another_head_size(place, state)} | _absent_classifier(
        places, names, state
    )
    missing = sorted(
        place.torch_name for place in places if place not in fresh and place.torch_name not in state
    )
    surplus = sorted(set(state) - {place.torch_name for place in places})
    misshapen = sorted(
        f"{place.torch_name} {tuple(state[place.torch_name].shape)} instead of {place.torch_shape}"
        for place in places
        if place not in fresh
        and place.torch_name in state
        and tuple(state[place.torch_name].shape) != place.torch_shape
        and not _is_of_another_size(place, state)
    )
    _raise_if_any(network, missing, surplus, misshapen)

    variables: Variables = {
        kind: {part: {} for part in network.part_names} for kind in ("params", "batch_stats")
    }
    initial = network.init_head(jax.random.key(0) if key is None else key) if fresh else {}
    for place in places:
        if place in fresh:
            value = initial[place.layer][place.leaf]
        else:
            value = _from_torch_layout(np.asarray(state[place.torch_name], np.float32), place)
            if place.leaf == "embedding" and network.tokens is not None:
                value = resampled(value, network.tokens.placed, network.tokens.side)
        leaves = variables[place.kind][place.part].setdefault(place.layer, {})
        leaves[place.leaf] = value if not place.piece else np.concatenate([leaves[place.leaf], value], -1)
    return jax.tree.map(lambda value: jax.numpy.asarray(value, jax.numpy.float32), variables)


def to_torch_state(
    network: Network, variables: Mapping[str, Any], *, names: TorchNames | None = None
) -> dict[str, np.ndarray]:
    """The PyTorch state of ``variables``: float32 arrays under the names the architecture has there.

    ``num_batches_tracked`` (0) is included, so that a strict ``load_state_dict`` accepts the result.

    Args:
        network: of the variables.
        variables: float arrays.
        names: one of the network's namings; None is the first.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from finetune_jax import models
        >>> network = models.create("resnet26_policy", num_classes=5, width=0.125)
        >>> state = models.to_torch_state(network, network.init(jax.random.key(0), jnp.ones((1, 8, 8, 3))))
        >>> state["linear.weight"].shape
        (5, 32)
    """
    state = {}
    for place in _places(network, names or network.torch_names):
        value = np.asarray(variables[place.kind][place.part][place.layer][place.leaf], np.float32)
        if place.pieces > 1:
            value = np.split(value, place.pieces, axis=-1)[place.piece]
        if place.leaf not in _TABLES:
            value = _to_torch_layout(value)
        state[place.torch_name] = value.reshape(place.torch_shape)
        if place.leaf == "var":
            counter = place.torch_name.removesuffix("running_var") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    return state


def fits(network: Network, state: Mapping[str, np.ndarray]) -> bool:
    """Whether :func:`from_torch_state` would accept the state."""
    names = _naming_of(network, state)
    state = _select_copy(_of_parts(state, names), "blocks")
    layers = _prefixes(network, names)
    if names.classifier_optional and f"{names.head.get(_CLASSIFIER)}.weight" not in state:
        layers = layers - {names.head.get(_CLASSIFIER)}
    if _layers(state) != layers:
        return False
    places = {place.torch_name: place for place in _places(network, names)}
    absent = {place.torch_name for place in _absent_classifier(list(places.values()), names, state)}
    return set(places) - absent == set(state) and all(
        tuple(state[name].shape) == place.torch_shape
        or _has_another_head_size(place, state)
        or _is_of_another_size(place, state)
        for name, place in places.items()
        if name not in absent
    )


def num_classes(network: Network, state: Mapping[str, np.ndarray]) -> int | None:
    """Number of outputs of the classifier in a state, None where it has no such entry."""
    bias = state.get(f"{_naming_of(network, state).head[_CLASSIFIER]}.bias")
    return None if bias is None else len(bias)


def patches_per_side(network: Network, state: Mapping[str, np.ndarray]) -> int | None:
    """Of the positions in a state; None where it has none, or they are not those of a square."""
    names = _naming_of(network, state).stem.get("positions", "")
    table = state.get(names) if isinstance(names, str) else None
    if table is None or network.tokens is None or table.ndim != 3:
        return None
    count = table.shape[1] - network.tokens.placed
    side = math.isqrt(max(count, 0))
    return side if side and side * side == count else None


def _naming_of(network: Network, state: Mapping[str, np.ndarray]) -> TorchNames:
    """The naming, of those the network has, with most of its layers in the state; the first of equals."""
    state_layers = _layers(_select_copy(state, "blocks"))
    namings = (network.torch_names, *network.other_torch_names)
    return max(namings, key=lambda names: len(_prefixes(network, names) & state_layers))


def _layers(state: Mapping[str, Any]) -> set[str]:
    return {_layer(name) for name in state}


def _layer(name: str) -> str:
    """Name of an entry without that of its leaf; of a layer by itself the whole."""
    layer, _, leaf = name.rpartition(".")
    return layer if f".{leaf}" in _LEAVES.values() else name


def _prefixes(network: Network, names: TorchNames) -> set[str]:
    present = network.shapes() if network.tokens is not None else None
    prefixes: set[str] = set()
    for part, layers in _by_part(network, names).items():
        for layer, prefix in layers.items():
            # Namings of transformers speak of layers that only some of them have.
            if present is None or layer in present["params"][part]:
                prefixes.update(map(_layer, (prefix,) if isinstance(prefix, str) else prefix))
    return prefixes


def _by_part(network: Network, names: TorchNames) -> dict[str, Mapping[str, TorchPrefix]]:
    parts = (names.stem, *names.blocks[: len(network.blocks)], {**names.pooling, **names.head})
    return dict(zip(network.part_names, parts, strict=True))


def _places(network: Network, names: TorchNames) -> Iterator[_Place]:
    prefixes = _by_part(network, names)
    for kind, parts in network.shapes().items():
        for part, layers in parts.items():
            for layer, leaves in layers.items():
                prefix = prefixes[part][layer]
                pieces = (prefix,) if isinstance(prefix, str) else prefix
                pointwise = layer in names.pointwise or (
                    part == "head" and layer == _CLASSIFIER and names.pointwise_classifier
                )
                for leaf, value in leaves.items():
                    shape = (*value.shape[:-1], value.shape[-1] // len(pieces))
                    torch_shape = (1, *shape) if leaf in _TABLES else _torch_shape(shape)
                    torch_shape += (1, 1) if pointwise and leaf == "kernel" else ()
                    torch_shape = (1, 1, 1, *torch_shape) if layer in names.broadcast else torch_shape
                    for number, piece in enumerate(pieces):
                        name = piece + _LEAVES[leaf]
                        matrix = len(shape) == 2
                        yield _Place(name, torch_shape, kind, part, layer, leaf, number, len(pieces), matrix)


def _of_parts(state: Mapping[str, np.ndarray], names: TorchNames) -> dict[str, np.ndarray]:
    return {name: value for name, value in state.items() if not name.startswith(names.ignored)}


def _select_copy(state: Mapping[str, np.ndarray], copy: str) -> dict[str, np.ndarray]:
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    if not any(name.startswith("parallel_blocks.") for name in state):
        return state
    other = {"blocks": "parallel_blocks.", "parallel_blocks": "blocks."}[copy]
    return {
        name.replace("parallel_blocks.", "blocks.", 1): value
        for name, value in state.items()
        if not name.startswith(other)
    }


def _has_another_head_size(place: _Place, state: Mapping[str, np.ndarray]) -> bool:
    if place.part != "head" or place.layer != _CLASSIFIER or place.torch_name not in state:
        return False
    state_shape, network_shape = tuple(state[place.torch_name].shape), place.torch_shape
    return (
        len(state_shape) == len(network_shape)
        and state_shape[0] != network_shape[0]
        and state_shape[1:] == network_shape[1:]
    )


def _absent_classifier(
    places: list[_Place], names: TorchNames, state: Mapping[str, np.ndarray]
) -> set[_Place]:
    """Places of the classifier where a state has none and need not have one."""
    classifier = {place for place in places if place.part == "head" and place.layer == _CLASSIFIER}
    absent = names.classifier_optional and not any(place.torch_name in state for place in classifier)
    return classifier if absent else set()


def _is_of_another_size(place: _Place, state: Mapping[str, np.ndarray]) -> bool:
    """Whether an entry is a table of positions of another number of patches."""
    if place.leaf != "embedding" or place.torch_name not in state:
        return False
    shape = tuple(state[place.torch_name].shape)
    return len(shape) == 3 and (shape[0], shape[2]) == (1, place.torch_shape[2])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]
    return tuple(shape[axis] for axis in order)


def _from_torch_layout(value: np.ndarray, place: _Place) -> np.ndarray:
    if place.leaf in _TABLES:
        return value[0]
    if place.leaf != "kernel":
        return value.reshape(-1)
    if value.ndim == 4 and place.torch_shape[-2:] == (1, 1) and place.is_matrix:
        value = value[..., 0, 0]
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}[value.ndim])


def _to_torch_layout(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]))


def _raise_if_any(network: Network, missing: list[str], surplus: list[str], misshapen: list[str]) -> None:
    problems = [
        f"{kind}: {', '.join(names)}"
        for kind, names in (("missing", missing), ("surplus", surplus), ("wrong shape", misshapen))
        if names
    ]
    if problems:
        raise UserError(
            f"the weights do not fit network {network.architecture} (width {network.width:g}): "
            + "; ".join(problems)
        )


class Layout(NamedTuple):
    """What a network expects of a state, in the naming that fits the state best.

    Attributes:
        shapes: ``{name of an entry: its shape}``.
        stem: names of the entries of the stem.
        classifier: what the names of the classifier's entries begin with, without the dot.
    """

    shapes: dict[str, tuple[int, ...]]
    stem: tuple[str, ...]
    classifier: str


def layout_for(network: Network, state: Mapping[str, np.ndarray]) -> Layout:
    """What a network expects of a state."""
    names = _naming_of(network, state)
    places = list(_places(network, names))
    return Layout(
        {place.torch_name: place.torch_shape for place in places},
        tuple(place.torch_name for place in places if place.part == "stem"),
        str(names.head.get(_CLASSIFIER, "")),
    )


def layer_sets(network: Network) -> list[tuple[frozenset[str], str]]:
    """Names of the layers in each of a network's namings, and which of them is the classifier.

    Nothing is computed for it: namings of transformers speak of layers that only some of them have, too.
    """
    sets = []
    for names in (network.torch_names, *network.other_torch_names):
        prefixes = [prefix for layers in _by_part(network, names).values() for prefix in layers.values()]
        flat = {name for prefix in prefixes for name in ((prefix,) if isinstance(prefix, str) else prefix)}
        sets.append((frozenset(flat), str(names.head.get(_CLASSIFIER, ""))))
    return sets


def begins_like(network: Network, state: Mapping[str, np.ndarray]) -> bool:
    """Whether the convolutions of the stem have their shapes in a state, but for the number of colours."""
    images = jax.ShapeDtypeStruct(network.example_shape, jax.numpy.float32)
    stem: Any = jax.eval_shape(lambda key, x: network.stem.init(key, x, False), jax.random.key(0), images)
    names = _naming_of_layers(network, state)
    for layer, leaves in stem["params"].items():
        prefix, kernel = names.stem.get(layer), leaves.get("kernel")
        if isinstance(prefix, str) and kernel is not None and len(kernel.shape) == 4:
            value = state.get(f"{prefix}.weight")
            if value is None or value.shape[::2] != _torch_shape(kernel.shape)[::2]:
                return False
    return True


def _naming_of_layers(network: Network, state: Mapping[str, np.ndarray]) -> TorchNames:
    """Like :func:`_naming_of`, without asking which of the layers the network has."""
    present = _layers(state)
    namings = (network.torch_names, *network.other_torch_names)
    shares = [len(names & present) for names, _ in layer_sets(network)]
    return namings[shares.index(max(shares))]


def layers_of(state: Iterable[str]) -> frozenset[str]:
    """Names of the layers whose entries a state has; counters of batches left out."""
    return frozenset(
        _layers(dict.fromkeys(name for name in state if not name.endswith("num_batches_tracked")))
    )
