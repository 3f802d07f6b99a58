"""What a caller chooses of an architecture beside its width."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Settings that some architectures have and others refuse.

    Attributes:
        image_size: side of the images; None is the size of the published weights, or any where no parameter depends
            on it.
        pool: how tokens become an embedding: the class token (``token``), the mean of the patches (``mean``), one
            behind the other (``both``), or attention (``map``); empty is what the weights were trained with.
        drop_path: share of examples that the last block's branches are left out of in training, see
            ``layers.stochastic_depth``.
        dropout: share of the embedding that the classifier does without in training.
    """

    image_size: int | None = None
    pool: str = ""
    drop_path: float = 0.0
    dropout: float = 0.0

    def of_images(self) -> "Options":
        """Those that a network of images has, which hands on no tokens and takes any size."""
        return dataclasses.replace(self, image_size=None, pool="")


@dataclass(frozen=True)
class TokenGrid:
    """How the tokens ``[B, prefix + side², C]`` of a network stand for its images.

    Attributes:
        prefix: class and register tokens in front.
        side: patches per row and column, the others row by row.
        placed: how many of the prefix have an entry in the table of positions.
    """

    prefix: int
    side: int
    placed: int = 0
