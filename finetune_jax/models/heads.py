"""Heads: what turns the last block's output into logits."""

import flax.linen as nn
import jax

from finetune_jax.models.layers import Numerics, dense, global_average, norm


class PooledClassifier(nn.Module):
    """Global average pooling and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, num_classes]`` float32."""
        del train
        return dense(self.num_classes, "classifier")(global_average(x))


class NormalizedClassifier(nn.Module):
    """Batch norm, ReLU, global average pooling and a dense layer."""

    num_classes: int
    numerics: Numerics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, H, W, C] → [B, num_classes]`` float32."""
        x = nn.relu(norm(self.numerics, "norm")(x, train))
        return dense(self.num_classes, "classifier")(global_average(x))
