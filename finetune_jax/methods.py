"""What the simple fine-tuning methods train: a choice among the parts of a network."""

from finetune_jax.errors import UserError
from finetune_jax.models.network import Network


def trained_parts(network: Network, method: str, k: int = 1) -> tuple[str, ...]:
    """Names of the parts that ``method`` trains, in network order; all others are frozen.

    Args:
        network: with blocks ``block_01 … block_KK``.
        method: ``standard`` and ``scratch`` train everything, ``feature_extractor`` the head only,
            ``last_k`` the top ``k`` blocks and the head.
        k: number of blocks of ``last_k``.

    Raises:
        UserError: ``k`` is larger than the number of blocks, or the method is not known.
    """
    if method in ("standard", "scratch"):
        return network.part_names
    if method == "feature_extractor":
        return ("head",)
    if method == "last_k":
        if k > len(network.blocks):
            raise UserError(f"--k={k}: {network.architecture} has only {len(network.blocks)} blocks")
        return (*network.block_names[-k:], "head")
    raise UserError(f"--method={method} is not known")
