"""Memory of each device in a training step with whole parameters or with shares of them, without allocating any.

    python -m benchmarks.shared_memory --network=vit_giant_patch14_dinov2 --image_size=224 --devices=8 --images=8

The step of AdamW is compiled for so many virtual CPU devices from shapes alone (``jax.eval_shape``), and XLA says what
it would take (``memory_analysis``): arguments that stay (parameters, moments, statistics, images), and temporary values
(gradients, activations, parts of the network that were brought together). Float32 throughout. A network of bfloat16, or
a compiler for accelerators, takes less.
"""

import argparse
import functools
import json
from typing import Any

_GIGABYTE = 1e9


def measure(
    network: str, *, image_size: int, devices: int, images: int, in_shares: bool, blocks: int = 0
) -> dict[str, Any]:
    """Bytes of each device: ``arguments``, ``temporary`` and their sum, and the number of ``parameters``.

    Args:
        network: name of it.
        image_size: in pixels.
        devices: over all processes.
        images: of a step on each device.
        in_shares: whether ``--shard_parameters`` is set; else ``--rematerialise``.
        blocks: leave out all blocks but the first so many; 0 leaves none out.
    """
    import jax
    import jax.numpy as jnp

    from finetune_jax import models
    from finetune_jax.algorithms import augmentation, optimizers
    from finetune_jax.data.batch import Batch
    from finetune_jax.devices import shares
    from finetune_jax.devices.replicas import AXIS, local_replicas
    from finetune_jax.models import pruning
    from finetune_jax.models.normalization import normalizer
    from finetune_jax.training import objectives, step
    from finetune_jax.training.placement import Placement
    from finetune_jax.training.state import create_state, parameter_count

    model = models.create(
        network,
        num_classes=1000,
        image_size=image_size,
        rematerialise=not in_shares,
        parameter_axis=AXIS if in_shares else None,
    )
    if blocks:
        model = pruning.truncate(model, len(model.blocks) - blocks)
    parts = model.part_names
    rates = dict.fromkeys(parts, 1e-4)
    optimizer = optimizers.per_block(rates, rates, dict.fromkeys(parts, optimizers.adamw()))
    run = functools.partial(
        step.train_step,
        objective=objectives.objective(
            objectives.forward(model, parts),
            objectives.cross_entropy(),
            normalize=normalizer((0.5,) * 3, (0.5,) * 3),
            augment=augmentation.flip,
        ),
        optimizer=optimizer,
        axis_name=AXIS,
        in_shares=in_shares,
    )
    placement = Placement(local_replicas(jax.devices()[:devices]), in_shares)
    whole: Any = jax.eval_shape(
        lambda: create_state(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.shapes()),
            parts,
            optimizer,
            key=jax.random.key(0),
        )
    )

    def rows(leaf: Any) -> Any:
        shape = (devices, *shares.share_shape(leaf.shape, devices)) if leaf.shape else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    state = whole
    if in_shares:
        params, opt_state = jax.tree.map(rows, (whole.params, whole.opt_state))
        state = whole.replace(params=params, opt_state=opt_state)
    axes = placement.axes(state)
    pixels: Any = jax.ShapeDtypeStruct((devices, images, image_size, image_size, 3), jnp.uint8)
    numbers: Any = jax.ShapeDtypeStruct((devices, images), jnp.int32)
    mapped = placement.replicas.map(run, (axes, 0), axes, donate=(0,))
    analysis = mapped.lower(state, Batch(pixels, numbers, numbers)).compile().memory_analysis()
    sizes = {"arguments": analysis.argument_size_in_bytes, "temporary": analysis.temp_size_in_bytes}
    return {
        **sizes,
        "total": sum(sizes.values()),
        "parameters": parameter_count(whole.params),
    }


def main() -> None:
    """Print one row of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="vit_giant_patch14_dinov2")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--images", type=int, default=8, help="of a step on each device")
    parser.add_argument("--whole", action="store_true", help="without shares")
    parser.add_argument("--blocks", type=int, default=0, help="leave out all others")
    flags = parser.parse_args()

    from finetune_jax.devices.replicas import prepare_backend

    prepare_backend(virtual_devices=flags.devices)
    figures = measure(
        flags.network,
        image_size=flags.image_size,
        devices=flags.devices,
        images=flags.images,
        in_shares=not flags.whole,
        blocks=flags.blocks,
    )
    figures |= {
        f"{name}_gb": round(figures[name] / _GIGABYTE, 2) for name in ("arguments", "temporary", "total")
    }
    print(json.dumps({**vars(flags), **figures}))


if __name__ == "__main__":
    main()
