"""Using a finished (or running) run: its best checkpoint as a callable."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax import checkpoints, evaluation, step
from finetune_jax.data.decode import Preprocessing, preprocess, read_image
from finetune_jax.errors import UserError
from finetune_jax.models import pretrained, registry
from finetune_jax.models.network import Network, Variables

_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Card:
    """What prediction needs beside the variables; kept in every checkpoint.

    Attributes:
        architecture: name of the network.
        width: its width factor.
        blocks: number of its blocks, fewer than published after pruning.
        class_names: of its outputs.
        preprocessing: of an image before the network.
        mean: of each channel, images scaled to [0, 1].
        std: likewise.
        bfloat16: whether it computes in bfloat16.
    """

    architecture: str
    width: float
    blocks: int
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bfloat16: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self) | {"class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Card":
        """Back from :meth:`to_json`; other entries are ignored."""
        own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
        own["preprocessing"] = Preprocessing(**own["preprocessing"])
        for name in ("class_names", "mean", "std"):
            own[name] = tuple(own[name])
        return cls(**own)

    def network(self, **settings: Any) -> Network:
        """The network, without parameters; ``settings`` of ``models.create`` beside those of the card."""
        network = registry.create(self.architecture, len(self.class_names), width=self.width, **settings)
        return dataclasses.replace(network, blocks=network.blocks[: self.blocks])


class Predictor:
    """A trained network with its preprocessing.

    Calling it gives probabilities ``[N, num_classes]``; :meth:`embed` gives features.

    Attributes:
        class_names: of the columns.
    """

    def __init__(self, card: Card, variables: Variables) -> None:
        self.card = card
        self.class_names = card.class_names
        network = card.network(dtype=jnp.bfloat16 if card.bfloat16 else jnp.float32)
        normalize = step.normalizer(card.mean, card.std)
        logits = evaluation.classifier(network, normalize)
        self._variables = jax.device_put(variables)
        self._probabilities = jax.jit(lambda variables, images: jax.nn.softmax(logits(variables, images)))
        self._embed = jax.jit(evaluation.embedder(network, normalize))

    def __call__(self, images: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, num_classes]``.

        Args:
            images: a path, a uint8 array ``[h, w, 3]`` or ``[N, h, w, 3]``, or a sequence of paths and arrays.

        Raises:
            UserError: an image cannot be read.
        """
        return self._map(self._probabilities, images)

    def embed(self, images: Any) -> np.ndarray:
        """Embeddings, float32 ``[N, D]``: pooled output of the last block, image and mirror image summed."""
        return self._map(self._embed, images)

    def _map(self, function: Any, images: Any) -> np.ndarray:
        outputs = []
        for chunk in _chunks(_as_sequence(images), _BATCH):
            ready = np.stack([self._prepare(image) for image in chunk])
            filled = np.zeros((_BATCH, *ready.shape[1:]), np.uint8)
            filled[: len(ready)] = ready
            outputs.append(np.asarray(function(self._variables, filled))[: len(ready)])
        if not outputs:
            raise ValueError("no images given")
        return np.concatenate(outputs)

    def _prepare(self, image: Any) -> np.ndarray:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"an image must be uint8 [h, w, 3], not {pixels.dtype} {pixels.shape}")
        return preprocess(pixels, self.card.preprocessing)


def load(run_directory: str | Path) -> Predictor:
    """The best checkpoint of a run as a callable from images to probabilities.

    Raises:
        UserError: the directory holds no checkpoint, or it cannot be read.
    """
    card, variables = read_best(Path(run_directory))
    return Predictor(card, variables)


def read_best(run_directory: Path) -> tuple[Card, Variables]:
    """Card and variables (host arrays) of a run's best checkpoint; errors as of :func:`load`."""
    folder = run_directory / "checkpoints"
    best = checkpoints.best_step(folder)
    if best is None:
        raise UserError(f"{run_directory} is no run directory with an evaluated checkpoint")
    try:
        card = Card.from_json(checkpoints.read_meta(folder, best))
    except (KeyError, TypeError) as error:
        raise UserError(f"checkpoint {folder / str(best)} lacks {error}") from error
    return card, checkpoints.restore_variables(folder, best, card.network().shapes())


def load_pretrained_run(run_directory: Path, **settings: Any) -> pretrained.Pretrained:
    """A run as the origin of another one; ``settings`` of ``models.create``."""
    card, variables = read_best(run_directory)
    settings.pop("width", None)
    return pretrained.Pretrained(
        card.network(**settings),
        jax.tree.map(jnp.asarray, variables),
        card.mean,
        card.std,
        card.preprocessing.image_size,
        card.class_names,
    )


def _as_sequence(images: Any) -> Sequence[Any]:
    if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    return images


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
