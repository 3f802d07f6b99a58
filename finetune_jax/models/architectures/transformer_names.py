"""Where PyTorch states keep the layers of a vision transformer: timm's names, and those of ``transformers``."""

from collections.abc import Mapping

from finetune_jax.models.network import TorchNames, TorchPrefix

Names = Mapping[str, TorchPrefix]


def namings(depth: int, *, eva: bool, gated: bool, scaled: bool, plain: bool) -> tuple[TorchNames, ...]:
    """All namings of a network of ``depth`` blocks, the one that is written first.

    Args:
        depth: number of blocks.
        eva: timm keeps it among its EVA networks.
        gated: the dense layers have a gate.
        scaled: the branches have a factor per channel.
        plain: ``transformers`` has the network too: a class token, no registers, no attention for pooling.
    """
    if eva:
        scales: dict[str, TorchPrefix] = {"scale1": "gamma_1", "scale2": "gamma_2"}
        return (_timm(depth, scales | ({"fc1": ("mlp.fc1_g", "mlp.fc1_x")} if gated else {})),)
    timm = _timm(depth, {"scale1": "ls1.gamma", "scale2": "ls2.gamma"})
    if not plain:
        return (timm,)
    # Layers of ``transformers`` stand in the state as they are in the model, or below its name.
    model = "dinov2" if scaled else "vit"
    return (
        timm,
        *(_hugging_face(depth, gated, scaled, old, p) for p in (f"{model}.", "") for old in (True, False)),
    )


def _timm(depth: int, others: Names) -> TorchNames:
    layers: dict[str, TorchPrefix] = {
        "norm1": "norm1",
        "qkv": "attn.qkv",
        "query_bias": "attn.q_bias",
        "value_bias": "attn.v_bias",
        "proj": "attn.proj",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        **others,
    }
    return TorchNames(
        {
            "patches": "patch_embed.proj",
            "positions": "pos_embed",
            "class_token": "cls_token",
            "registers": "reg_token",
        },
        _of_blocks("blocks", depth, layers),
        {"classifier": "head"},
        pooling={
            "tokens_norm": "norm",
            "map_latent": "attn_pool.latent",
            "map_query": "attn_pool.q",
            "map_key_value": "attn_pool.kv",
            "map_proj": "attn_pool.proj",
            "map_norm": "attn_pool.norm",
            "map_fc1": "attn_pool.mlp.fc1",
            "map_fc2": "attn_pool.mlp.fc2",
        },
        classifier_optional=True,
    )


def _hugging_face(depth: int, gated: bool, scaled: bool, old: bool, prefix: str) -> TorchNames:
    """Names of ``ViTModel`` and ``Dinov2Model``, in files (``old``) or in modules of version 5 of the library."""
    attention = "attention.attention." if old else "attention."
    parts = ("query", "key", "value") if old else ("q_proj", "k_proj", "v_proj")
    layers: dict[str, TorchPrefix] = {"qkv": tuple(attention + part for part in parts)}
    layers["proj"] = "attention.output.dense" if old else "attention.o_proj"
    if scaled:
        layers |= {"norm1": "norm1", "norm2": "norm2"}
        layers |= {"scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}
        dense = ("mlp.weights_in", "mlp.weights_out") if gated else ("mlp.fc1", "mlp.fc2")
    else:
        layers |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        dense = ("intermediate.dense", "output.dense") if old else ("mlp.fc1", "mlp.fc2")
    layers |= dict(zip(("fc1", "fc2"), dense, strict=True))
    blocks = "encoder.layer" if scaled or old else "layers"
    return TorchNames(
        {
            "patches": f"{prefix}embeddings.patch_embeddings.projection",
            "positions": f"{prefix}embeddings.position_embeddings",
            "class_token": f"{prefix}embeddings.cls_token",
        },
        _of_blocks(prefix + blocks, depth, layers),
        {"classifier": "classifier"},
        pooling={"tokens_norm": f"{prefix}layernorm"},
        ignored=(f"{prefix}embeddings.mask_token", f"{prefix}pooler."),
        classifier_optional=True,
    )


def _of_blocks(prefix: str, depth: int, layers: Names) -> tuple[Names, ...]:
    def placed(index: int, place: TorchPrefix) -> TorchPrefix:
        if isinstance(place, tuple):
            return tuple(f"{prefix}.{index}.{part}" for part in place)
        return f"{prefix}.{index}.{place}"

    return tuple({name: placed(index, place) for name, place in layers.items()} for index in range(depth))
