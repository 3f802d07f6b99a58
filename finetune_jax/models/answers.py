"""From what a network puts out to what it says: probabilities, or numbers in their own units."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from finetune_jax.algorithms import ordinal
from finetune_jax.models.card import Card


def of_outputs(card: Card) -> Callable[[jax.Array], jax.Array]:
    """Outputs ``[N, …]`` of the network of a card to ``[N, C]``.

    Probabilities that add up to 1 of classes and grades, one for each class of ``multilabel``, and numbers of a
    ``regression``. Logits are divided by the card's temperature first.
    """
    temperature = card.temperature

    def scaled(logits: jax.Array) -> jax.Array:
        return logits if temperature == 1.0 else logits / temperature

    if card.task == "regression":
        mean = jnp.asarray(card.target_mean, jnp.float32)
        deviation = jnp.asarray(card.target_deviation, jnp.float32)
        return lambda outputs: outputs * deviation + mean
    if card.task == "multilabel":
        return lambda logits: jax.nn.sigmoid(scaled(logits))
    if card.task == "ordinal":
        return lambda logits: ordinal.probabilities(scaled(logits))
    return lambda logits: jax.nn.softmax(scaled(logits))
