"""Heads: what turns the last block's output into logits or embeddings.

A head maps the last block's output ``[B, H, W, C]``, or tokens ``[B, S, C]``, to its outputs ``[B, …]`` in float32.
The first two are architectures' own, the others replace those by name and keep the network's pooling.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

from finetune_jax.models.layers.basic import Numerics, dense, global_average, norm
from finetune_jax.models.network import Pooling

EMBEDDING_SIZE = 512
"""Outputs of the embedding head, and of the retrieval head's hidden layer."""

OWN = "classifier"
"""Name of the head that an architecture comes with."""

TORCH_NAMES: Mapping[str, Mapping[str, str]] = {
    "retrieval": {"hidden": "head.hidden", "norm": "head.norm", "classifier": "head.classifier"},
    "embedding": {"embedding": "head.embedding"},
}
"""Where the layers of these heads stand in an exported state; PyTorch's networks have no names for them."""


class PooledClassifier(nn.Module):
    """Pooling, by default the global average, and a dense layer.

    With ``dropout`` it needs the random stream of that name in training mode.
    """

    num_classes: int
    pooling: Pooling = global_average
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C]`` or ``[B, S, C] → [B, num_classes]`` float32."""
        x = self.pooling(x)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(self.num_classes, "classifier")(x)


class NormalizedClassifier(nn.Module):
    """Batch norm, ReLU, global average pooling and a dense layer."""

    num_classes: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, num_classes]`` float32."""
        x = norm(self.numerics, "norm")(x, train, "relu")
        return dense(self.num_classes, "classifier")(global_average(x))


class RetrievalHead(nn.Module):
    """AutoLR's: pooling, dense 512, batch norm, leaky ReLU 0.1, dropout 0.5, dense classes.

    It serves training alone; images are compared by the pooled output of the last block. In training mode it
    needs the random stream ``dropout``.
    """

    num_classes: int
    numerics: Numerics
    pooling: Pooling = global_average

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C]`` or ``[B, S, C] → [B, num_classes]``."""
        x = dense(EMBEDDING_SIZE, "hidden")(self.pooling(x))
        x = nn.leaky_relu(norm(self.numerics, "norm")(x, train), 0.1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return dense(self.num_classes, "classifier")(x)


class EmbeddingHead(nn.Module):
    """Proxy-Anchor's: pooling and a dense layer to the 512 numbers by which images are compared.

    The classes are in the proxies of the loss, so ``num_classes`` changes nothing here.
    """

    num_classes: int
    pooling: Pooling = global_average

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C]`` or ``[B, S, C] → [B, 512]``."""
        del train
        return dense(EMBEDDING_SIZE, "embedding")(self.pooling(x))


def build(name: str, num_classes: int, numerics: Numerics, pooling: Pooling = global_average) -> nn.Module:
    """The head of that name, with the network's pooling.

    Raises:
        ValueError: there is none.
    """
    if name == "retrieval":
        return RetrievalHead(num_classes, numerics, pooling)
    if name == "embedding":
        return EmbeddingHead(num_classes, pooling)
    raise ValueError(f"there is no head {name!r}, only {', '.join(TORCH_NAMES)}")
