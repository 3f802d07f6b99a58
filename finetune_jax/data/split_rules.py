"""How images are held out where a data set brings no validation or test split of its own.

Rule 1, for data that never change (the embedded digits, prepared TFDS data sets) and for runs that began before there
was another: so many images of each class, drawn at random from the whole list (`splits.stratified_split`).

Rule 2, for folders, which grow: each image falls on a side by a hash of its content and the seed, so that adding an
image moves no other. Near-duplicates fall on one side together, and so do the images of a group (`--group_by`), by a
hash of the group's name.
"""

import dataclasses
import hashlib

import numpy as np

from finetune_jax.data import near_duplicates
from finetune_jax.data.examples import Examples, Source
from finetune_jax.data.splits import hashed_split, stratified_split
from finetune_jax.errors import UserError

BY_COUNT, BY_CONTENT = 1, 2
"""The versions of the rule."""

_STREAM = {"validation": 0, "test": 1}  # one independent random stream for each split that is made up
_FEW_STREAM = 2
_LARGE_GROUP = 0.5  # share of the images of a data set


def carved(source: Source, split: str, fraction: float, seed: int, *, list_findings: bool = False) -> Source:
    """Adds a split made of a part of every training class, by the source's rule.

    Args:
      source: Without the split.
      split: ``validation`` or ``test``.
      fraction: Of the training images, in ``[0, 1)``.
      seed: Of the split.
      list_findings: Whether a split that no image can be held out for stays empty, and is one of the findings.

    Raises:
      UserError: No image can be held out.
    """
    train = source.splits["train"]
    digests = train.digests if source.split_rule == BY_CONTENT and fraction > 0.0 else None
    by_content = digests is not None
    remarks: tuple[str, ...] = ()
    if digests is not None:
        groups = near_duplicates.groups_of(digests, train.appearances)
        identities = digests
        if train.groups is not None:
            # A group falls on its side by its name, whichever images it has.
            groups, identities = near_duplicates.joined(groups, train.groups), train.groups
        keys = uniform_keys(identities, split, seed)[_deciding(identities, groups)]
        kept, held_out = hashed_split(train.labels, fraction, keys=keys, groups=groups)
        if train.groups is None:
            remarks = _about_groups(source, split, groups, train)
    else:
        rng = np.random.Generator(np.random.PCG64([seed, _STREAM[split]]))
        kept, held_out = stratified_split(train.labels, fraction, rng=rng)
    if fraction > 0.0 and len(held_out) == 0:
        reason = "every class has one training image"
        if by_content and np.bincount(train.labels).max() > 1:
            reason = "the images of each class are equal or near-duplicates"
            if train.groups is not None:
                reason = "the images of each class are of one group or near-duplicates"
        sentence = (
            f"--dataset={source.name}: {reason}, so none can be held out for "
            f"{split}: add images, a {split} split, or set --{split}_fraction=0"
        )
        if not list_findings:
            raise UserError(sentence)
        source = dataclasses.replace(source, findings=(*source.findings, sentence))
    if by_content:
        note = f"{split}: {len(held_out)} images, {100 * fraction:g} % of train by a hash of each image, seed {seed}"
    else:
        note = f"{split}: {len(held_out)} images, {100 * fraction:g} % of train, stratified, seed {seed}"
    return dataclasses.replace(
        source,
        splits={**source.splits, "train": train.subset(kept), split: train.subset(held_out)},
        notes=(*source.notes, *remarks, note if fraction else f"{split}: none (--{split}_fraction=0)"),
    )


def few_per_class(source: Source, count: int, seed: int) -> Source:
    """The source with at most so many training images of each class, those with the smallest hashes.

    So the images of a smaller count are among those of a larger one, and adding an image to the data set changes one
    at most.

    Args:
      source: With a training split.
      count: Of each class, at least 1.
      seed: Of the choice.
    """
    train = source.splits["train"]
    if train.digests is None:
        keys = np.random.Generator(np.random.PCG64([seed, _FEW_STREAM])).random(len(train))
    else:
        keys = uniform_keys(train.digests, "images_per_class", seed)
    order = np.lexsort((keys, train.labels))
    counts = np.bincount(train.labels)
    rank = np.arange(len(train)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[rank < count])
    note = f"train: {len(kept)} of {len(train)} images (--images_per_class={count})"
    return dataclasses.replace(
        source, splits={**source.splits, "train": train.subset(kept)}, notes=(*source.notes, note)
    )


def uniform_keys(digests: np.ndarray, split: str, seed: int) -> np.ndarray:
    """A number in ``[0, 1)`` for each image that depends on its content, the split and the seed alone, float64 ``[N]``.

    Args:
      digests: uint8 ``[N, 16]``.
      split: That is made.
      seed: Of the split.
    """
    salt = f"{split} {seed}".encode()
    words = [hashlib.blake2b(salt + digest.tobytes(), digest_size=8).digest() for digest in digests]
    return (np.frombuffer(b"".join(words), "<u8") >> np.uint64(11)) / 2.0**53


def _deciding(digests: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each image, the member of its group whose hash decides: that with the smallest digest, int ``[N]``."""
    order = np.argsort(near_duplicates.sort_keys(digests), kind="stable")
    _, first, group_of = np.unique(groups[order], return_index=True, return_inverse=True)
    deciding = np.empty(len(groups), np.int64)
    deciding[order] = order[first[group_of]]
    return deciding


def _about_groups(source: Source, split: str, groups: np.ndarray, train: Examples) -> tuple[str, ...]:
    """How many images were kept together; once, though each split that is made asks."""
    if any("near-duplicates" in note for note in source.notes):
        return ()
    members, counts = np.unique(groups, return_counts=True)
    several = counts > 1
    if not several.any():
        return ()
    together, largest = int(counts[several].sum()), int(counts.argmax())
    note = (
        f"{split}: {together} images are equal or near-duplicates of others and were kept together in "
        f"{int(several.sum())} groups (the largest has {int(counts[largest])}, e.g. {train.names[members[largest]]})"
    )
    if counts[largest] > _LARGE_GROUP * len(groups):
        note += "; more than half of all images look alike, so give the data set a split of its own"
    return (note,)
