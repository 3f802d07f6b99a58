"""The images of a run: opened, split, decoded, checked, and on their way to the devices."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import augmentation as augmentations
from finetune_jax.config import data_shards
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.cache import Arrays
from finetune_jax.data.divided import Division
from finetune_jax.data.examples import Source
from finetune_jax.data.feeds import Feed, create_feed
from finetune_jax.data.order import training_order, training_order_of_shards
from finetune_jax.devices import cluster
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import UserError
from finetune_jax.runs import recorded_data, same_run
from finetune_jax.training import tasks

_EXAMPLES = 24
_EXAMPLES_STREAM = 4

# Steps per call of a compiled program on accelerators; on CPU each step is a call.
_STEPS_PER_DISPATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """What a run trains on and is measured with.

    Attributes:
        config: the settings of the data, the batches and their order.
        replicas: where the images go.
        source: the data set.
        class_names: of the classes that are trained on.
        image_size: side of the squares that the network sees.
        splits: decoded images with labels, ``train``, ``validation``, ``test`` and perhaps ``gallery``.
        unlabelled: decoded images of the splits without labels that are to be labelled.
        division: of all splits into shards; None where there are none.
    """

    config: FinetuneConfig
    replicas: Replicas
    source: Source
    class_names: tuple[str, ...]
    image_size: int
    splits: Mapping[str, Arrays]
    unlabelled: Mapping[str, Arrays]
    division: Division | None = None

    def __post_init__(self) -> None:
        count = len(self.splits["train"].labels)
        if count < self.config.images_per_step:
            steps = self.config.accumulate_steps
            times = "" if steps == 1 else f" times --accumulate_steps={steps}"
            raise UserError(
                f"--batch_size={self.config.batch_size}{times} is more than the {count} training images of "
                f"{self.source.name}; give a smaller one"
            )
        if self.config.select_on == "validation" and not len(self.splits["validation"].labels):
            raise UserError("the validation split is empty; give --validation_fraction or --select_on=last")

    def order(self, epoch: int) -> np.ndarray:
        """The training images of an epoch, int32 ``[steps, B]``."""
        labels = self.splits["train"].labels
        if self.division is not None:
            images: Any = self.splits["train"].images
            return training_order_of_shards(
                images.rows, self.config.images_per_step, seed=self.config.seed, epoch=epoch
            )
        return training_order(
            len(labels),
            self.config.images_per_step,
            seed=self.config.seed,
            epoch=epoch,
            balance=labels if self.config.balanced_sampling else None,
        )

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return len(self.order(0))

    @functools.cached_property
    def feeds(self) -> Mapping[str, Feed]:
        """The splits that have images, on the devices if they all fit there; brought there at the first use."""
        config = self.config
        size = sum(arrays.images.nbytes for arrays in self.splits.values())
        return {
            split: create_feed(
                arrays,
                self.replicas,
                resident=size <= config.device_data_gb * 1e9,
                steps_per_dispatch=config.steps_per_dispatch
                or (1 if self.replicas.on_cpu else _STEPS_PER_DISPATCH),
                aspects=datasets.stretched_aspects(config, arrays) if split == "train" else None,
                weights=arrays.weights if split == "train" else None,
            )
            for split, arrays in self.splits.items()
            if len(arrays.labels)
        }

    @property
    def augmentation(self) -> str:
        """Name of the augmentation, ``--augmentation=auto`` decided."""
        if self.config.augmentation != "auto":
            return self.config.augmentation
        return "none" if self.config.dataset == "digits" else "flip"

    @property
    def augment(self) -> augmentations.Augmentation:
        """The augmentation of one training image."""
        config = self.config
        function = augmentations.create(
            self.augmentation,
            self.image_size,
            shorter_side=datasets.shorter_side(config, self.image_size),
            color_jitter=config.color_jitter,
            hue_jitter=config.hue_jitter,
        )
        return augmentations.then(function, augmentations.dihedral) if config.dihedral else function

    @functools.cached_property
    def augmented_examples(self) -> np.ndarray:
        """Some training images as a step sees them, uint8 ``[N, S, S, C]``; no random number of a run is used up."""
        train = self.splits["train"]
        order = self.order(0)
        if self.division is not None:
            # Of the first shard, which the process that shows them has decoded.
            order = order[:, : order.shape[1] // self.division.shards]
        order = order.reshape(-1)[:_EXAMPLES]
        aspects = datasets.stretched_aspects(self.config, train)
        if aspects is not None:
            aspects = aspects[order]
        key = jax.random.fold_in(jax.random.key(self.config.seed), _EXAMPLES_STREAM)
        augment = jax.jit(jax.vmap(self.augment, in_axes=(0, 0, None if aspects is None else 0)))
        augmented = augment(
            jax.random.split(key, len(order)), train.images[order].astype(np.float32), aspects
        )
        return np.clip(np.rint(np.asarray(augmented)), 0, 255).astype(np.uint8)


def load(
    config: FinetuneConfig,
    natural_size: int,
    replicas: Replicas,
    data_before: recorded_data.Before = recorded_data.NOTHING,
) -> Images:
    """Open the data set and decode all of it that the run needs.

    Args:
        config: of the run.
        natural_size: side of the images that the network was trained on.
        replicas: where the images go.
        data_before: what an earlier start of the run tells of its data.

    Raises:
        UserError: there is no such data set, it cannot be read, does not suit the run, or has changed.
    """
    silent = not replicas.is_primary
    source = recorded_data.load(config, data_before, silent=silent)
    same_run.agree_on_images(source)
    if config.predict_unlabelled and not source.unlabelled:
        raise UserError(f"--predict_unlabelled: all images of {source.name} have labels")
    class_names = tasks.create(config, source).class_names(source)
    if source.splits["train"].weights is not None and config.loss == "proxy_anchor":
        raise UserError(
            "--loss=proxy_anchor compares the images of a batch and has no loss of single ones that weights could "
            "multiply; leave --columns=weight=… out, or choose another loss"
        )
    size = datasets.image_size(config, natural_size)
    unlabelled: Mapping[str, Arrays] = {}
    division = _division(config, source, replicas, data_before)
    with cluster.one_per_host_first() if division is None else contextlib.nullcontext():
        splits = datasets.materialise(config, source, size, silent=silent, division=division)
        if config.predict_unlabelled:
            # Before training and not after it: a damaged image should not show up days later.
            unlabelled = datasets.materialise_unlabelled(
                config, source, size, silent=silent, division=division
            )
    return Images(config, replicas, source, class_names, size, splits, unlabelled, division)


def _division(
    config: FinetuneConfig, source: Source, replicas: Replicas, data_before: recorded_data.Before
) -> Division | None:
    """How the images are divided among the processes; None where every process has all of them.

    Raises:
        UserError: the processes, or a batch, cannot be divided by the number of shards.
    """
    shards = data_shards.resolved(
        dataclasses.asdict(config),
        processes=replicas.process_count,
        images=sum(map(len, source.splits.values())),
        recorded=data_before.shards,
    )
    if shards == 1:
        if config.data_shards == data_shards.PROCESS and replicas.is_primary:
            print("note: --data_shards=process: a single process has all images", file=sys.stderr)
        return None
    if replicas.is_primary:
        of_each = (
            f", {shards // replicas.process_count} of each process" if replicas.process_count > 1 else ""
        )
        print(f"images in {shards} shards{of_each}", file=sys.stderr)
    return Division(shards, replicas.process_index, replicas.process_count)
