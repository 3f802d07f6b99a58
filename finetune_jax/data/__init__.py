"""From ``--dataset`` to batches on the devices.

``sources`` opens a data set, ``splits`` divides it, ``decode`` and ``cache`` make arrays of it once,
``order`` decides the batches, ``feeds`` brings them to the devices, ``check`` looks for what is wrong.
"""

from finetune_jax.data.prepare import (
    cache_folder,
    decoding,
    image_size,
    in_proportion,
    load_source,
    materialise,
    materialise_split,
    materialise_unlabelled,
    preprocessing,
    shorter_side,
    stretched_aspects,
)

__all__ = [
    "cache_folder",
    "decoding",
    "image_size",
    "in_proportion",
    "load_source",
    "materialise",
    "materialise_split",
    "materialise_unlabelled",
    "preprocessing",
    "shorter_side",
    "stretched_aspects",
]
