"""States of ``transformers`` whose arrays are laid out otherwise than timm's, and timm's as theirs.

Where only names differ, a network lists both (``transformer_names``). Here are the others:

- ``Dinov2WithRegistersModel``: its class token has a position of its own, which timm has added to the token.
- ``SiglipVisionModel``: one matrix for the three of the attention that pools, positions without an axis in front.
- ``DINOv3ViTModel``: separate queries, keys and values with two biases, which the published weights have as zeros.
- ``DINOv3ConvNextModel``: downsamplings are numbered from the stem on.

Files have the names of the library's version 4, modules of version 5 partly others; both are read.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

State = dict[str, np.ndarray]

_QKV = ("q", "k", "v")
_DROPPED = "dropped"
_PREFIXES = ("vision_model.", "dinov2_with_registers.")

Entries = tuple[tuple[str, str], ...]
"""``(their name, timm's)`` without ``.weight`` and ``.bias``, ``#`` for a number; the first of several is written."""


class _Kind(NamedTuple):
    """One of the models.

    Attributes:
        marks: parts of names, each of which some entry of its states has.
        entries: names.
        finish: what remains to be done to the arrays of timm's state.
    """

    marks: tuple[str, ...]
    entries: Entries
    finish: Callable[[State], State]


def as_timm(state: Mapping[str, np.ndarray]) -> State:
    """The state under timm's names and in its layout, if it is one of the models above, else as it is."""
    names = set(state)
    for kind in _KINDS:
        if all(any(mark in name for name in names) for mark in kind.marks):
            return kind.finish(_joined(_renamed(_tower(state), kind.entries)))
    return dict(state)


def from_timm(state: Mapping[str, np.ndarray]) -> State:
    """A state of timm as that of the model of ``transformers`` that has the network: the way back of :func:`as_timm`.

    Args:
        state: of a DINOv2 with registers, a SigLIP, or a DINOv3; a classifier is left out, for the models have none.

    Raises:
        ValueError: it is of no such network.
    """
    state = {name: value for name, value in state.items() if not re.match(r"head\.(weight|bias|fc)", name)}
    if "stem.0.weight" in state:
        return _renamed(state, _backwards(_DINOV3_CONVNEXT.entries))
    if "pos_embed" in state and "cls_token" not in state:
        state["pos_embed"] = state["pos_embed"][0]
        if "attn_pool.q.weight" in state:
            for leaf in ("weight", "bias"):
                parts = [state.pop(f"attn_pool.{name}.{leaf}") for name in ("q", "kv")]
                state[f"attn_pool.in_{leaf}"] = np.concatenate(parts)
        state["pos_embed.weight"] = state.pop("pos_embed")
        return _renamed(_split(state), _backwards(_SIGLIP.entries))
    if "reg_token" not in state:
        raise ValueError("no state of DINOv2 with registers, SigLIP or DINOv3")
    if "pos_embed" in state:
        positions = state["pos_embed"]
        state["pos_embed"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], 1)
        return _renamed(_split(state), _backwards(_REGISTERS.entries))
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        prefix = name.removesuffix("q_bias")
        query, value = state.pop(name), state.pop(f"{prefix}v_bias")
        state[f"{prefix}qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
    split = {name: value for name, value in _split(state).items() if not name.endswith("attn.k.bias")}
    return _renamed(split, _backwards(_DINOV3.entries))


def _tower(state: Mapping[str, np.ndarray]) -> State:
    """What stands below the name of a model, and beside it the classifier, where others stand there too."""
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            kept = {
                name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
            }
            return kept | {n: value for n, value in state.items() if n.startswith("classifier.")}
    return dict(state)


def _renamed(state: Mapping[str, np.ndarray], entries: Entries) -> State:
    patterns = [(_pattern(old), new) for old, new in entries]
    renamed = {}
    for name, value in state.items():
        # Unknown entries are for the comparison with the network to name.
        place = name
        for pattern, new in patterns:
            if match := pattern.fullmatch(name):
                *numbers, leaf = match.groups()
                for number in numbers:
                    new = new.replace("#", number, 1)
                place = new + leaf
                break
        renamed[place] = value
    return {name: value for name, value in renamed.items() if not name.startswith(_DROPPED)}


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)") + r"((?:\.weight|\.bias)?)")


def _backwards(entries: Entries) -> Entries:
    back: dict[str, str] = {}
    for theirs, timm in entries:
        back.setdefault(timm, theirs)
    return tuple((timm, theirs) for timm, theirs in back.items() if timm != _DROPPED)


def _joined(state: State) -> State:
    """Separate queries, keys and values one behind the other; a missing bias of keys is zero."""
    joined: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)[qkv]\.(weight|bias)", name)
        if not match:
            joined[name] = value
            continue
        prefix, leaf = match.groups()
        parts = [state.get(f"{prefix}{part}.{leaf}", np.zeros_like(value)) for part in _QKV]
        joined[f"{prefix}qkv.{leaf}"] = np.concatenate(parts)
    return joined


def _split(state: State) -> State:
    split: State = {}
    for name, value in state.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)qkv\.(weight|bias)", name)
        if not match:
            split[name] = value
            continue
        for part, part_value in zip(_QKV, np.split(value, 3), strict=True):
            split[f"{match[1]}{part}.{match[2]}"] = part_value
    return split


def _of_registers(state: State) -> State:
    positions = state["pos_embed"]
    state["cls_token"] = state["cls_token"] + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]
    return state


def _of_siglip(state: State) -> State:
    state["pos_embed"] = state.pop("pos_embed.weight")[None]
    for leaf in ("weight", "bias"):
        if (whole := state.pop(f"attn_pool.in_{leaf}", None)) is not None:
            query, *others = np.split(whole, 3)
            state[f"attn_pool.q.{leaf}"] = query
            state[f"attn_pool.kv.{leaf}"] = np.concatenate(others)
    return state


def _of_dinov3(state: State) -> State:
    biases = {name: value for name, value in state.items() if name.endswith("attn.qkv.bias")}
    kept = {name: value for name, value in state.items() if name not in biases}
    if any(np.any(value) for value in biases.values()):
        for name, value in biases.items():
            query, _, last = np.split(value, 3)
            prefix = name.removesuffix("qkv.bias")
            kept |= {f"{prefix}q_bias": query, f"{prefix}v_bias": last}
    return kept


def _block(theirs: str, *entries: tuple[str, str]) -> Entries:
    return tuple((theirs + old, f"blocks.#.{new}") for old, new in entries)


def _parts(theirs: str, names: tuple[str, str, str]) -> Entries:
    return tuple((theirs + name, f"attn.{part}") for name, part in zip(names, _QKV, strict=True))


_OLD, _NEW = ("query", "key", "value"), ("q_proj", "k_proj", "v_proj")
_NORMS, _DENSE = (("norm1", "norm1"), ("norm2", "norm2")), (("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"))
_TOKENS = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("embeddings.mask_token", _DROPPED),
)

_REGISTERS = _Kind(
    ("embeddings.register_tokens", "embeddings.position_embeddings"),
    (
        *_TOKENS,
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        *_block(
            "encoder.layer.#.",
            *_NORMS,
            *_parts("attention.attention.", _OLD),
            ("attention.output.dense", "attn.proj"),
            *_parts("attention.", _NEW),
            ("attention.o_proj", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            *_DENSE,
            ("mlp.weights_in", "mlp.fc1"),
            ("mlp.weights_out", "mlp.fc2"),
        ),
        ("layernorm", "norm"),
        ("classifier", "head"),
    ),
    _of_registers,
)
_SIGLIP = _Kind(
    (
        "embeddings.position_embedding.weight",
        "self_attn.out_proj.weight",
        "embeddings.patch_embedding.weight",
    ),
    (
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("embeddings.position_embedding", "pos_embed"),
        *_block(
            "encoder.layers.#.",
            ("layer_norm1", "norm1"),
            ("layer_norm2", "norm2"),
            *_parts("self_attn.", _NEW),
            ("self_attn.out_proj", "attn.proj"),
            *_DENSE,
        ),
        ("post_layernorm", "norm"),
        ("head.probe", "attn_pool.latent"),
        ("head.attention.in_proj_weight", "attn_pool.in_weight"),
        ("head.attention.in_proj_bias", "attn_pool.in_bias"),
        ("head.attention.out_proj", "attn_pool.proj"),
        ("head.layernorm", "attn_pool.norm"),
        ("head.mlp.fc1", "attn_pool.mlp.fc1"),
        ("head.mlp.fc2", "attn_pool.mlp.fc2"),
    ),
    _of_siglip,
)


def _dinov3(layers: str) -> Entries:
    return _block(
        layers,
        *_NORMS,
        *_parts("attention.", _NEW),
        ("attention.o_proj", "attn.proj"),
        ("layer_scale1.lambda1", "gamma_1"),
        ("layer_scale2.lambda1", "gamma_2"),
        ("mlp.gate_proj", "mlp.fc1_g"),
        ("mlp.up_proj", "mlp.fc1_x"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
    )


_DINOV3 = _Kind(
    ("embeddings.register_tokens", "embeddings.patch_embeddings.weight", "mlp.up_proj"),
    (
        *_TOKENS,
        ("embeddings.patch_embeddings", "patch_embed.proj"),
        *_dinov3("layer.#."),
        *_dinov3("model.layer.#."),
        ("norm", "norm"),
    ),
    lambda state: _of_dinov3(_without_gate(state)),
)


def _without_gate(state: State) -> State:
    """``up_proj`` is one of two matrices where there is a gate, else the only one."""
    if any(".mlp.fc1_g." in name for name in state):
        return state
    return {name.replace(".mlp.fc1_x.", ".mlp.fc1."): value for name, value in state.items()}


_STAGE = "stages.#."
_CONVNEXT_LAYERS = (
    ("layers.#.gamma", "blocks.#.gamma"),
    ("layers.#.depthwise_conv", "blocks.#.conv_dw"),
    ("layers.#.layer_norm", "blocks.#.norm"),
    ("layers.#.pointwise_conv1", "blocks.#.mlp.fc1"),
    ("layers.#.pointwise_conv2", "blocks.#.mlp.fc2"),
)
_DINOV3_CONVNEXT = _Kind(
    ("stages.0.downsample_layers.0.weight", "depthwise_conv"),
    tuple(
        (prefix + old, new)
        for prefix in ("", "model.")
        for old, new in (
            ("stages.0.downsample_layers.#", "stem.#"),
            *((_STAGE + old, _STAGE + new) for old, new in _CONVNEXT_LAYERS),
            (f"{_STAGE}downsample_layers.#", f"{_STAGE}downsample.#"),
            ("layer_norm", "head.norm"),
        )
    ),
    dict,
)
_KINDS = (_REGISTERS, _SIGLIP, _DINOV3, _DINOV3_CONVNEXT)
