"""Networks as block sequences, and their pretrained weights."""

from finetune_jax.models.network import Network, Variables
from finetune_jax.models.registry import create, names
from finetune_jax.models.weights import torch_state
from finetune_jax.models.weights.adapter_files import add_adapter
from finetune_jax.models.weights.pretrained import load_pretrained
from finetune_jax.models.weights.torch_state import from_torch_state, to_torch_state

__all__ = [
    "Network",
    "Variables",
    "add_adapter",
    "create",
    "from_torch_state",
    "load_pretrained",
    "names",
    "to_torch_state",
    "torch_state",
]
