"""Which network a file of weights is of, whatever its tool has put around the names.

Tools write a prefix before every name (``model.``, ``module.``, ``backbone.``, nested ones too), other entries beside
the network (a projection head, a queue, the criterion), no classifier, or another head than ours. Here the part of a
file that is one of our networks is looked for, and what is left out is told.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from finetune_jax.errors import UserError, readable
from finetune_jax.models import registry
from finetune_jax.models.network import Network
from finetune_jax.models.weights import torch_state

State = Mapping[str, np.ndarray]

_MOST_DOTS = 6  # of a prefix
_LEAST_SHARE = 0.1  # of all entries, that a part which is a network has
_LISTED = 4  # names in a message
_NEAR = 0.2  # share of common layers from which a network is worth naming
_SIMILAR = 0.4  # share of a network's layers from which a closer look is worth its time
# First words of entries beside a network that are no part of any.
_BESIDE = frozenset(
    [
        "aux",
        "aux_logits",
        "classifier",
        "criterion",
        "decoder",
        "fc",
        "head",
        "heads",
        "last_linear",
        "linear",
        "logit_scale",
        "loss",
        "metric",
        "mlp",
        "neck",
        "predictor",
        "proj",
        "projection",
        "projection_head",
        "projector",
        "prototypes",
        "queue",
        "queue_ptr",
        "n_averaged",
    ]
)
_COUNTERS = ("total_ops", "total_params", "num_batches_tracked")  # of profilers and batch norm
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa|shadow)([._]|$)")


_Known = tuple[Network, list[tuple[frozenset[str], str]]]
"""A network, and for each of its namings the names of its layers and of its classifier."""


class Match(NamedTuple):
    """A network in a file.

    Attributes:
        network: with as many classes as the classifier in the file; one class where there is none.
        state: its entries under its own names.
        notes: what was left out or changed, each a sentence without the file's name.
    """

    network: Network
    state: dict[str, np.ndarray]
    notes: tuple[str, ...]


def match(name: str, state: State, networks: Sequence[Network], entry: str = "") -> Match:
    """The network in a state.

    Args:
        name: of the file, for messages.
        state: of the file.
        networks: that it may be, with any number of classes; the first that fits is taken.
        entry: prefix of the one to take, where there are several; one that no name has counts as none.

    Raises:
        UserError: it is none of them, the nearest is named with what differs; several, they are named; or its weights
            are not finite.
    """
    layers = [(network, torch_state.layer_sets(network)) for network in networks]
    views = _views(state, entry)
    fitting: dict[str, Match] = {}
    for prefix, view in views.items():
        if not any(prefix.startswith(f"{shorter}") for shorter in fitting):
            network_match = _first_fitting(view, layers)
            if network_match is not None:
                fitting[prefix] = network_match
    if not fitting and len(networks) == 1:
        _raise_differences(name, views, layers[0])
    if not fitting:
        raise UserError(_no_match(name, views, layers))
    # Averaged weights are another choice, not the usual one.
    prefixes = [prefix for prefix in fitting if not _AVERAGED.search(prefix)] or list(fitting)
    if len(prefixes) > 1:
        shown = ", ".join(prefix.rstrip(".") or "the names without prefix" for prefix in prefixes[:_LISTED])
        raise UserError(
            f"{name} holds several networks ({shown}); choose one with --weights_entry={prefixes[-1].rstrip('.')}"
        )
    prefix = prefixes[0]
    network_match = fitting[prefix]
    _refuse_if_not_finite(name, network_match.state)
    notes = list(network_match.notes)
    if others := [other.rstrip(".") for other in fitting if other != prefix]:
        notes.append(
            f"taken are the weights below {prefix.rstrip('.') or 'the top level'}; --weights_entry={others[0]} takes "
            "the averaged ones"
        )
    if rest := [key for key in state if not key.startswith(prefix) and not key.startswith(tuple(fitting))]:
        notes.append(f"left out: {_list(_first_words(rest))}, which are not of the network")
    return network_match._replace(notes=tuple(notes))


def _views(state: State, entry: str) -> dict[str, dict[str, np.ndarray]]:
    """``{prefix: entries below it}``: the whole, and every part large enough to be a network; shorter ones first."""
    if entry:
        prefix = f"{entry.rstrip('.')}."
        below = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if below:
            # What is below may have a prefix of its own.
            return {prefix + inner: view for inner, view in _views(below, "").items()}
    counts: Counter[str] = Counter()
    for name in state:
        words = name.split(".")[:-1][:_MOST_DOTS]
        counts.update(".".join(words[: end + 1]) + "." for end in range(len(words)))
    least = max(2, _LEAST_SHARE * len(state))
    prefixes = ["", *sorted((p for p, count in counts.items() if count >= least), key=lambda p: p.count("."))]
    return {
        prefix: {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        for prefix in prefixes
    }


def _first_fitting(view: State, layers: Sequence[_Known]) -> Match | None:
    # The copies of a SpotTune state have names that are known to `torch_state` alone.
    present = torch_state.layers_of(view)
    copies = any(name.startswith("parallel_blocks.") for name in view)
    for network, namings in layers:
        if copies or _may_be(network, namings, view, present):
            matches = [match for form in _forms(network) if (match := _adapted(form, view)) is not None]
            if matches:
                return min(matches, key=lambda match: len(match.notes))
    return None


def _forms(network: Network) -> list[Network]:
    """The network, and with the other pooling that published classifiers of it have."""
    if network.tokens is None or network.options.pool != "token":
        return [network]
    # Classifiers of transformers' DINOv2 see the class token and the mean of the patches.
    return [network, registry.with_settings(network, pool="both")]


def _may_be(
    network: Network, namings: list[tuple[frozenset[str], str]], view: State, present: frozenset[str]
) -> bool:
    """A look at the names, and where these leave it open at the first layer, that costs little."""
    if any(names - {classifier} <= present for names, classifier in namings):
        return True
    # Namings speak of layers that only some networks have, and of entries that stand for themselves.
    share = max(len(names & present) / len(names) for names, _ in namings)
    return share >= _SIMILAR and torch_state.begins_like(network, view)


def _adapted(network: Network, view: State) -> Match | None:
    """The network with the entries of a view, once what may differ does not; None where more does."""
    layout = torch_state.layout_for(network, view)
    state = {name: value for name, value in view.items() if not name.endswith(_COUNTERS)}
    notes = []
    if foreign := _beside(state, layout):
        state = {name: value for name, value in state.items() if name not in foreign}
        notes.append(f"left out: {_list(_first_words(foreign))}, which are not of the network")
    # After that, for a head of another kind under the classifier's name is none.
    if not any(name in state for name in _classifier_entries(layout)):
        state |= _fresh_classifier(network, layout)
        notes.append("it has no classifier of the network's kind; a fresh one takes its place")
    state, stem = _with_three_channels(state, layout)
    notes += stem
    if not torch_state.fits(network, state):
        return None
    classes = torch_state.num_classes(network, state)
    return Match(network if classes is None else network.with_num_classes(classes), state, tuple(notes))


def _classifier_entries(layout: torch_state.Layout) -> list[str]:
    return [name for name in layout.shapes if name.rpartition(".")[0] == layout.classifier]


def _beside(state: State, layout: torch_state.Layout) -> set[str]:
    """Entries of another head, or beside the network."""
    module_names = {
        name.split(".")[0] for name in layout.shapes if name.rpartition(".")[0] != layout.classifier
    }
    classifier = _classifier_entries(layout)
    # A matrix from other features, or several layers: another head.
    same_kind = bool(classifier) and all(
        name in state and state[name].shape[1:] == layout.shapes[name][1:] for name in classifier
    )
    foreign = set()
    for name in state:
        first = name.split(".")[0]
        of_classifier = bool(layout.classifier) and f"{name}.".startswith(f"{layout.classifier}.")
        if of_classifier:
            if not same_kind or name not in layout.shapes:
                foreign.add(name)
        elif first in _BESIDE and first not in module_names:
            foreign.add(name)
    return foreign


def _fresh_classifier(network: Network, layout: torch_state.Layout) -> dict[str, np.ndarray]:
    initial = network.init_head(jax.random.key(0)).get("classifier", {})
    values = {".weight": initial.get("kernel"), ".bias": initial.get("bias")}
    return {
        name: np.asarray(values[name[name.rindex(".") :]]).T.reshape(layout.shapes[name])
        for name in _classifier_entries(layout)
    }


def _with_three_channels(state: State, layout: torch_state.Layout) -> tuple[dict[str, np.ndarray], list[str]]:
    """A first convolution of grey images becomes one of colours, as in timm: repeated, and divided by three.

    A grey image in three equal channels then gives what the network gave for the grey channel.
    """
    changed = dict(state)
    for name in layout.stem:
        shape = layout.shapes[name]
        value = state.get(name)
        if (
            value is not None
            and len(shape) == 4
            and shape[1] == 3
            and value.shape == (shape[0], 1, *shape[2:])
        ):
            changed[name] = np.repeat(np.asarray(value, np.float32), 3, axis=1) / np.float32(3)
            return changed, [f"its first layer ({name}) takes one channel; its weights are spread over three"]
    return changed, []


def _refuse_if_not_finite(name: str, state: State) -> None:
    broken = [
        key for key, value in state.items() if value.dtype.kind in "fc" and not np.isfinite(value).all()
    ]
    if broken:
        raise UserError(
            f"{name} holds NaN or infinite numbers in {_list(broken)} ({len(broken)} of {len(state)} arrays): it was "
            "damaged, or saved by a run that had diverged; take another file"
        )


def _raise_differences(name: str, views: Mapping[str, State], network: _Known) -> None:
    """Refuse a state for the only network that it may be, listing what differs."""
    nearest = max(views, key=lambda prefix: _nearness(views[prefix], network))
    try:
        torch_state.from_torch_state(network[0], views[nearest])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _nearness(view: State, network: _Known) -> float:
    """Share of layers that a state and a network have in common, of those that either has."""
    present = torch_state.layers_of(view)
    return max(len(names & present) / len(names | present) for names, _ in network[1])


def _no_match(name: str, views: Mapping[str, State], layers: Sequence[_Known]) -> str:
    """The sentence that says which network is nearest, and what differs."""
    pairs = [(_nearness(view, known), prefix, known[0]) for prefix, view in views.items() for known in layers]
    best = max(share for share, _, _ in pairs)
    known = [network.architecture for network, _ in layers]
    shown = f"{', '.join(known[:3])}, … ({len(known)} in all)" if len(known) > 3 else ", ".join(known)
    sentence = f"{name} fits none of the networks {shown}; "
    if best < _NEAR:
        first = _list(list(next(iter(views.values()))))
        return f"{sentence}none is near: its entries are {first}; give weights of one of them, see --network"

    def differing(prefix: str, network: Network) -> tuple[list[str], list[str], list[str]]:
        return _differences(views[prefix], torch_state.layout_for(network, views[prefix]))

    near = [(prefix, network) for share, prefix, network in pairs if share >= 0.9 * best][:8]
    prefix, network = min(near, key=lambda pair: sum(map(len, differing(*pair))))
    parts = [
        f"{kind}: {_list(names)}"
        for kind, names in zip(("missing", "surplus", "wrong shape"), differing(prefix, network), strict=True)
        if names
    ]
    below = f" below {prefix.rstrip('.')}" if prefix else ""
    return (
        f"{sentence}the nearest{below} is {network.architecture} (width {network.width:g}), from which it differs "
        f"({'; '.join(parts)}); name another with --network (and --width) to see what differs from that"
    )


def _differences(state: State, layout: torch_state.Layout) -> tuple[list[str], list[str], list[str]]:
    present = {name for name in state if not name.endswith(_COUNTERS)}
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in layout.shapes.items()
        if name in present and tuple(state[name].shape) != shape and name not in _classifier_entries(layout)
    ]
    return sorted(set(layout.shapes) - present), sorted(present - set(layout.shapes)), misshapen


def _first_words(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(readable(name, 100) for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
