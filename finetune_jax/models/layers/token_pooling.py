"""From the tokens of the last block to the embedding that a classifier sees."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from finetune_jax.models.layers.attention import pooling_attention_layers
from finetune_jax.models.layers.basic import Numerics
from finetune_jax.models.layers.batch_norm import at_least_float32
from finetune_jax.models.layers.linear import LayerNorm
from finetune_jax.models.layers.mlp import GatedActivation, mlp_layers

Pool = Literal["token", "mean", "both", "map"]


@dataclass(frozen=True)
class TokenPooling:
    """The last norm, and the pooling behind it; makes its layers in the module that calls it.

    Attributes:
        pool: the class token, the mean of the patches, one behind the other, or attention of a learned token
            (Zhai et al., "Scaling Vision Transformers", CVPR 2022).
        prefix: number of class and register tokens in front.
        epsilon: of the norm.
        heads: of the attention.
        hidden: channels of the dense layers behind the attention.
        activation: between those.
        numerics: of the run.
    """

    pool: Pool
    prefix: int
    epsilon: float
    heads: int
    hidden: int
    activation: GatedActivation
    numerics: Numerics

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens ``[B, S, C] → [B, C]`` in at least float32, ``[B, 2·C]`` of ``both``."""
        x = LayerNorm(self.epsilon, self.numerics.dtype, name="tokens_norm")(x)
        if self.pool == "map":
            return self._attended(x)
        wide = x.astype(at_least_float32(x))
        if self.pool == "token":
            return wide[:, 0]
        mean = wide[:, self.prefix :].mean(1)
        return mean if self.pool == "mean" else jnp.concatenate([wide[:, 0], mean], axis=-1)

    def _attended(self, x: jax.Array) -> jax.Array:
        dtype, channels = self.numerics.dtype, x.shape[-1]
        latent = LearnedTokens(1, channels, channels**-0.5, name="map_latent")()
        y = pooling_attention_layers(x[:, self.prefix :], latent, self.heads, dtype)
        z = LayerNorm(self.epsilon, dtype, name="map_norm")(y)
        y = y + mlp_layers(z, self.hidden, self.activation, dtype, prefix="map_")
        return y.astype(at_least_float32(y))


class LearnedTokens(nn.Module):
    """Tokens that are the same for all images."""

    count: int
    channels: int
    deviation: float

    @nn.compact
    def __call__(self) -> jax.Array:
        """``[count, channels]`` float32."""
        init = nn.initializers.truncated_normal(self.deviation)
        return self.param("token", init, (self.count, self.channels), jnp.float32)
