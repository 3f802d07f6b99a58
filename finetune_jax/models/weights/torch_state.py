"""Variables from and to the state dictionaries of PyTorch models.

A state is ``{name: numpy array}`` with the names of torchvision or timm (which agree for ResNets), of the
reference ResNet-26, or others that a network lists. Convolution weights are OIHW there and HWIO here, dense
weights ``[out, in]`` (as a convolution ``[out, in, 1, 1]``) there and ``[in, out]`` here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.models.network import Network, TorchNames, Variables

_CLASSIFIER = "classifier"


class _Place(NamedTuple):
    """One array: its name and shape in the state, and its path in the variables."""

    torch_name: str
    torch_shape: tuple[int, ...]
    kind: str
    part: str
    layer: str
    leaf: str


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
    """
    names = _naming_of(network, state)
    state = _select_copy(_of_parts(state, names), copy)
    places = list(_places(network, names))
    fresh = {place for place in places if _has_another_head_size(place, state)}
    missing = sorted(place.torch_name for place in places if place.torch_name not in state)
    surplus = sorted(set(state) - {place.torch_name for place in places})
    misshapen = sorted(
        f"{place.torch_name} {tuple(state[place.torch_name].shape)} instead of {place.torch_shape}"
        for place in places
        if place not in fresh
        and place.torch_name in state
        and tuple(state[place.torch_name].shape) != place.torch_shape
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
            value = np.asarray(state[place.torch_name], np.float32)
            value = _from_torch_layout(
                value[..., 0, 0] if place.layer == _CLASSIFIER and value.ndim == 4 else value
            )
        variables[place.kind][place.part].setdefault(place.layer, {})[place.leaf] = value
    return jax.tree.map(lambda value: jax.numpy.asarray(value, jax.numpy.float32), variables)


def to_torch_state(network: Network, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state of ``variables``: float32 arrays under the names the architecture has there.

    ``num_batches_tracked`` (0) is included, so that a strict ``load_state_dict`` accepts the result.
    """
    state = {}
    for place in _places(network, network.torch_names):
        value = np.asarray(variables[place.kind][place.part][place.layer][place.leaf], np.float32)
        state[place.torch_name] = _to_torch_layout(value).reshape(place.torch_shape)
        if place.leaf == "var":
            counter = place.torch_name.removesuffix("running_var") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    return state


def fits(network: Network, state: Mapping[str, np.ndarray]) -> bool:
    """Whether :func:`from_torch_state` would accept the state."""
    names = _naming_of(network, state)
    state = _select_copy(_of_parts(state, names), "blocks")
    if _layers(state) != _prefixes(network, names):
        return False
    places = {place.torch_name: place for place in _places(network, names)}
    return set(places) == set(state) and all(
        tuple(state[name].shape) == place.torch_shape or _has_another_head_size(place, state)
        for name, place in places.items()
    )


def num_classes(network: Network, state: Mapping[str, np.ndarray]) -> int | None:
    """Number of outputs of the classifier in a state, None where it has no such entry."""
    bias = state.get(_naming_of(network, state).head[_CLASSIFIER] + ".bias")
    return None if bias is None else len(bias)


def _naming_of(network: Network, state: Mapping[str, np.ndarray]) -> TorchNames:
    """The naming, of those the network has, with most of its layers in the state; the first of equals."""
    found = _layers(_select_copy(state, "blocks"))
    namings = (network.torch_names, *network.other_torch_names)
    return max(namings, key=lambda names: len(_prefixes(network, names) & found))


def _layers(state: Mapping[str, np.ndarray]) -> set[str]:
    return {name.rpartition(".")[0] for name in state}


def _prefixes(network: Network, names: TorchNames) -> set[str]:
    return {prefix for layers in _by_part(network, names).values() for prefix in layers.values()}


def _by_part(network: Network, names: TorchNames) -> dict[str, Mapping[str, str]]:
    parts = (names.stem, *names.blocks[: len(network.blocks)], names.head)
    return dict(zip(network.part_names, parts, strict=True))


def _places(network: Network, names: TorchNames) -> Iterator[_Place]:
    prefixes = _by_part(network, names)
    torch_leaf = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }
    for kind, parts in network.shapes().items():
        for part, layers in parts.items():
            for layer, leaves in layers.items():
                pointwise = part == "head" and layer == _CLASSIFIER and names.pointwise_classifier
                for leaf, value in leaves.items():
                    name = f"{prefixes[part][layer]}.{torch_leaf[leaf]}"
                    shape = _torch_shape(value.shape)
                    shape += (1, 1) if pointwise and leaf == "kernel" else ()
                    yield _Place(name, shape, kind, part, layer, leaf)


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
    found, wanted = tuple(state[place.torch_name].shape), place.torch_shape
    return len(found) == len(wanted) and found[0] != wanted[0] and found[1:] == wanted[1:]


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(shape)]
    return tuple(shape[axis] for axis in order)


def _from_torch_layout(value: np.ndarray) -> np.ndarray:
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim])


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
