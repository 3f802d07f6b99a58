"""Data sets as a network sees them: the class means that domain similarity compares, and files of them.

The features are those of the network as pretrained, of the training images as evaluation prepares them. All data
sets that are compared have the same image size.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from finetune_jax import data as datasets
from finetune_jax.algorithms import domain_similarity
from finetune_jax.config.settings import READING_SETTINGS, DataConfig
from finetune_jax.data.examples import Source
from finetune_jax.data.feeds import Feed, create_feed
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError, readable
from finetune_jax.files.weight_files import read_write
from finetune_jax.models.network import Variables
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.weights.pretrained import Pretrained, at_image_size, bundled_source
from finetune_jax.training import evaluation

_Compute = Callable[[Any, Feed, int], Iterator[np.ndarray]]
"""``(variables, feed, number of images) → features [B, D]`` batch by batch."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """A data set in the features of a network.

    Attributes:
        name: of the data set.
        means: float32 ``[C, D]``, mean features of the classes with images.
        weights: float32 ``[C]``, their shares of the images.
        images: how many there are; 0 where that is not known.
        image_size: that the network saw; 0 where that is not known.
    """

    name: str
    means: np.ndarray
    weights: np.ndarray
    images: int = 0
    image_size: int = 0

    def distance(self, other: "Domain") -> float:
        """Earth Mover's Distance to another one in the same features."""
        return domain_similarity.earth_movers_distance(self.means, self.weights, other.means, other.weights)


class Prober:
    """Looks at data sets through one network."""

    def __init__(
        self, config: DataConfig, origin: Pretrained, replicas: Replicas, *, pretrained: str
    ) -> None:
        """Compile nothing yet.

        Args:
            config: how images are read; ``image_size`` 0 leaves it to the source and the network. Crops and
                proportions of a run do not count.
            origin: the network, with its pretrained weights.
            replicas: where to run it.
            pretrained: what ``--pretrained`` says, for messages.

        Raises:
            UserError: the network has no weights.
        """
        if not origin.variables:
            raise UserError(
                f"--pretrained={pretrained} has no features to compare data sets by; give pretrained weights"
            )
        self._config = DataConfig(**{name: getattr(config, name) for name in READING_SETTINGS})
        self._origin = origin
        self._replicas = replicas
        self._pretrained = pretrained
        self._at_size: dict[int, tuple[_Compute, Any]] = {}

    def source(self, name: str) -> Domain:
        """What the weights were trained on.

        Args:
            name: a data set, a file of :func:`write`, or empty for what comes with bundled weights.

        Raises:
            UserError: there is no such thing, or it does not go with the network or the image size.
        """
        if name.endswith(".npz"):
            return self._stored(name, Path(name).expanduser())
        if name:
            return self.data_set(name, flag="source")
        file = bundled_source(self._pretrained)
        if file is None:
            raise UserError(
                f"--source is needed: --pretrained={self._pretrained} does not come with class means of what it was "
                "trained on; name that data set, or a file written by finetune-jax similarity --save_source=FILE.npz"
            )
        return self._stored("", file)

    def data_set(self, name: str, *, flag: str, image_size: int = 0) -> Domain:
        """The training images of a data set.

        Args:
            name: as in ``--dataset``.
            flag: that named it, for messages.
            image_size: 0 takes that of the flag, else the natural one of the network.

        Raises:
            UserError: it cannot be read, or has fewer than two classes.
        """
        config = dataclasses.replace(
            self._config,
            dataset=name,
            data_dir=self._config.data_dir if name.startswith("tfds:") else "",
        )
        try:
            source = datasets.load_source(config, silent=not self._replicas.is_primary)
        except UserError as error:
            named = f"--{flag}={name}"
            message = str(error).replace(f"--dataset={name}", named)
            raise UserError(message if named in message else f"{named}: {message}") from error
        return self.opened(source, flag=flag, image_size=image_size)

    def opened(self, source: Source, *, flag: str, image_size: int = 0) -> Domain:
        """:meth:`data_set` of one that is open, perhaps split in another way."""
        size = image_size or self._config.image_size or self._origin.image_size
        config = dataclasses.replace(self._config, dataset=source.name)
        silent = not self._replicas.is_primary
        arrays = datasets.materialise_split(
            config,
            source.splits["train"],
            datasets.preprocessing(config, size, train=False),
            silent=silent,
            title=f"decoding images of {source.name}",
        )
        if arrays.labels.ndim == 2:
            raise UserError(
                f"--{flag}={source.name} has labels of the kind {source.task}; classes are compared, one of each image"
            )
        present = np.unique(arrays.labels)
        if len(present) < 2:
            raise UserError(
                f"--{flag}={source.name} has {len(present)} classes with training images; its class means say "
                "something from two classes on"
            )
        sums = np.zeros((len(source.class_names), self.feature_count))
        counts = np.zeros(len(source.class_names), np.int64)
        resident = arrays.images.nbytes <= config.device_data_gb * 1e9
        feed = create_feed(arrays, self._replicas, resident=resident, steps_per_dispatch=1)
        start = 0
        compute, variables = self._features(size)
        for features in compute(variables, feed, len(arrays.labels)):
            labels = jnp.asarray(arrays.labels[start : start + len(features)])
            more, images = domain_similarity.class_sums(jnp.asarray(features), labels, len(counts))
            sums, counts, start = sums + np.asarray(more), counts + np.asarray(images), start + len(features)
        means, weights = sums[present] / counts[present, None], counts[present] / counts.sum()
        if not np.isfinite(means).all():
            raise UserError(
                f"--pretrained={self._pretrained} gives features of {source.name} that are not finite"
            )
        return Domain(
            source.name, means.astype(np.float32), weights.astype(np.float32), int(counts.sum()), size
        )

    def _features(self, size: int) -> tuple[_Compute, Any]:
        """What computes the features of images of a size, and the variables on the devices."""
        origin = at_image_size(self._origin, size)
        key = origin.network.image_size or 0  # of most networks one program and one copy do for all sizes
        if key not in self._at_size:
            normalize, network = normalizer(origin.mean, origin.std), origin.network
            compute = evaluation.compile_batches(
                lambda variables, images: network.embed(variables, normalize(images)), self._replicas
            )
            self._at_size[key] = (compute, self._replicas.replicate(origin.variables))
        return self._at_size[key]

    @property
    def feature_count(self) -> int:
        """``D``."""
        images = jax.ShapeDtypeStruct(self._origin.network.example_shape, jnp.float32)
        return jax.eval_shape(self._origin.network.embed, self._origin.variables, images).shape[1]

    def write(self, domain: Domain, file: str) -> None:
        """Write a data set's class means for :meth:`source`, with what tells these weights from others.

        Raises:
            UserError: the file cannot be written.
        """
        content = {
            "means": domain.means,
            "weights": domain.weights,
            "images": np.int64(domain.images),
            "image_size": np.int64(domain.image_size),
            "name": _as_bytes(domain.name),
            "network": _as_bytes(self._origin.network.architecture),
            "digest": _as_bytes(weights_digest(self._origin.variables)),
        }
        read_write.write(
            Path(file).expanduser(), {name: np.asarray(value) for name, value in content.items()}
        )

    def _stored(self, flag: str, file: Path) -> Domain:
        named = f"--source={flag}" if flag else str(file)
        content = read_write.read(file)
        if not {"means", "weights"} <= set(content):
            raise UserError(f"{named} holds no class means: it needs the arrays means [C, D] and weights [C]")
        means, weights = content["means"], content["weights"]
        if means.ndim != 2 or weights.shape != means.shape[:1] or len(weights) < 2:
            raise UserError(
                f"{named} needs means [C, D] and weights [C] of at least two classes, not "
                f"{list(means.shape)} and {list(weights.shape)}"
            )
        if not (
            np.isfinite(means).all()
            and weights.min() >= 0
            and 0 < weights.sum(dtype=np.float64) < np.inf
            and np.isfinite(weights.sum())
        ):
            raise UserError(f"{named} holds means or weights that are not finite, or weights below 0")
        if means.shape[1] != self.feature_count:
            raise UserError(
                f"{named} holds means of {means.shape[1]} features, but --pretrained={self._pretrained} has "
                f"{self.feature_count}; give means made with these weights"
            )
        if "digest" in content and _as_text(content["digest"]) != weights_digest(self._origin.variables):
            made = f", of a {_as_text(content['network'])}" if "network" in content else ""
            raise UserError(
                f"{named} was made with other weights{made}; make it again with --pretrained={self._pretrained} and "
                "--save_source"
            )
        image_size, images = (
            _as_count(content.get(name, 0), f"{named}: {name}") for name in ("image_size", "images")
        )
        if image_size and self._config.image_size not in (0, image_size):
            raise UserError(
                f"{named} holds means of images of {image_size} pixels, but --image_size={self._config.image_size}; "
                "leave --image_size out"
            )
        is_text = "name" in content and content["name"].dtype == np.uint8
        name = _as_text(content["name"]) if is_text else file.stem
        return Domain(name, means, weights, images, image_size)


def weights_digest(variables: Variables) -> str:
    """Hex digest of all weights and statistics that features depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(traverse_util.flatten_dict(dict(variables), sep="/").items()):
        if path.split("/")[1] != "head":
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _as_count(content: Any, named: str) -> int:
    value = np.asarray(content)
    if value.shape != () or value.dtype.kind not in "iuf" or not 0 <= float(value) < 2**31:
        raise UserError(f"{named} is no number of pixels or images")
    return int(value)


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(content: Any) -> str:
    return readable(np.asarray(content).astype(np.uint8).tobytes().decode(errors="replace"))
