"""Variables from and to the state dictionaries of PyTorch models.

A state is ``{name: numpy array}`` with the names of torchvision or timm (which agree for ResNets), or of the
reference ResNet-26. Convolution weights are OIHW there and HWIO here, dense weights ``[out, in]`` there and
``[in, out]`` here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from finetune_jax.errors import UserError
from finetune_jax.models.network import Network, Variables

_CLASSIFIER = "classifier"


class _Place(NamedTuple):
    """One array: its name in the state, and its path and shape in the variables."""

    torch_name: str
    kind: str
    part: str
    layer: str
    leaf: str
    shape: tuple[int, ...]


def from_torch_state(
    network: Network, state: Mapping[str, np.ndarray], *, copy: str = "blocks", key: jax.Array | None = None
) -> Variables:
    """Variables of ``network`` with the values of a PyTorch state.

    Args:
        network: the architecture the state belongs to; the number of classes may differ.
        state: ``{name: array}``; ``num_batches_tracked`` is ignored.
        copy: ``"blocks"`` or ``"parallel_blocks"``, which of the two copies of a SpotTune ResNet-26 state to
            take; without meaning for other states.
        key: for the freshly initialised classifier where the state has another number of classes.

    Returns:
        ``{"params": …, "batch_stats": …}`` in float32.

    Raises:
        UserError: entries are missing, surplus or of another shape; all of them are listed.
    """
    state = _select_copy(state, copy)
    places = list(_places(network))
    fresh = {place for place in places if _has_another_head_size(place, state)}
    missing = sorted(place.torch_name for place in places if place.torch_name not in state)
    surplus = sorted(set(state) - {place.torch_name for place in places})
    misshapen = sorted(
        f"{place.torch_name} {tuple(state[place.torch_name].shape)} instead of {_torch_shape(place)}"
        for place in places
        if place not in fresh
        and place.torch_name in state
        and tuple(state[place.torch_name].shape) != _torch_shape(place)
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
            value = _from_torch_layout(np.asarray(state[place.torch_name], np.float32))
        variables[place.kind][place.part].setdefault(place.layer, {})[place.leaf] = value
    return jax.tree.map(lambda value: jax.numpy.asarray(value, jax.numpy.float32), variables)


def to_torch_state(network: Network, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state of ``variables``: float32 arrays under the names the architecture has there.

    ``num_batches_tracked`` (0) is included, so that a strict ``load_state_dict`` accepts the result.
    """
    state = {}
    for place in _places(network):
        value = np.asarray(variables[place.kind][place.part][place.layer][place.leaf], np.float32)
        state[place.torch_name] = _to_torch_layout(value)
        if place.leaf == "var":
            counter = place.torch_name.removesuffix("running_var") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    return state


def fits(network: Network, state: Mapping[str, np.ndarray]) -> bool:
    """Whether :func:`from_torch_state` would accept the state."""
    state = _select_copy(state, "blocks")
    if {name.rpartition(".")[0] for name in state} != _layer_prefixes(network):
        return False
    places = {place.torch_name: place for place in _places(network)}
    return set(places) == set(state) and all(
        tuple(state[name].shape) == _torch_shape(place) or _has_another_head_size(place, state)
        for name, place in places.items()
    )


def _prefixes(network: Network) -> dict[str, Mapping[str, str]]:
    names = network.torch_names
    parts = (names.stem, *names.blocks[: len(network.blocks)], names.head)
    return dict(zip(network.part_names, parts, strict=True))


def _layer_prefixes(network: Network) -> set[str]:
    return {prefix for layers in _prefixes(network).values() for prefix in layers.values()}


def _places(network: Network) -> Iterator[_Place]:
    prefixes = _prefixes(network)
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
                for leaf, value in leaves.items():
                    name = f"{prefixes[part][layer]}.{torch_leaf[leaf]}"
                    yield _Place(name, kind, part, layer, leaf, tuple(value.shape))


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
    found, wanted = tuple(state[place.torch_name].shape), _torch_shape(place)
    return len(found) == len(wanted) and found[0] != wanted[0] and found[1:] == wanted[1:]


def _torch_shape(place: _Place) -> tuple[int, ...]:
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(place.shape)]
    return tuple(place.shape[axis] for axis in order)


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
