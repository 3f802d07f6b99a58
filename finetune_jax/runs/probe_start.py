"""Runs that start from a linear probe: ``--from_probe``, and ``--method=auto`` where a fresh head learns at no rate.

The head starts as logistic regression on what its classifier sees of the images (the linear probe that comes before
fine-tuning in Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
2022, without its epochs). Batch norms keep the statistics they were pretrained with: normalised with those of a batch,
the features would be others than the head was fitted to.
"""

import dataclasses
import weakref
from typing import Any

import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import linear_probe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models.network import Variables
from finetune_jax.runs import program as programs
from finetune_jax.runs.program import Program
from finetune_jax.training.evaluation import compile_evaluation, of_centre
from finetune_jax.training.rehearsal import Chosen, held_out

MOST = 5000
"""Training images that the head is fitted to at most."""

MOST_CLASSES = 200
"""More take minutes to fit."""

# A search and the run that follows it share the images' features, the head and what is compiled.
_BUILT: weakref.WeakKeyDictionary[Program, Program] = weakref.WeakKeyDictionary()

_STREAM = 2**63 + 2  # beside the epochs, what rehearsals leave out, and the probe of the report


def obstacle(program: Program) -> str:
    """Why a run cannot start from a probe, a clause; empty where it can."""
    if program.task.name != "classification":
        return "is for images of one class each"
    if not program.method.from_pretrained or program.images.config.pretrained == "none":
        return "has no meaning without pretrained weights"
    if program.placement.in_shares or program.images.division is not None:
        return "is not for parameters or images in shares"
    if len(program.images.class_names) > MOST_CLASSES:
        return f"is for at most {MOST_CLASSES} classes"
    if "classifier" not in program.variables["params"]["head"]:
        return "is for heads that end in a linear classifier"
    return ""


def built(program: Program, config: FinetuneConfig) -> Program:
    """The program of the same run from a probe, made once.

    Args:
        program: of the run, from a fresh head or not.
        config: of the run, resolved, with ``from_probe``; of what a program does not know (rates) any.

    Raises:
        UserError: the run cannot start from one.
    """
    reason = obstacle(program)
    if reason:
        raise UserError(f"--from_probe {reason}")
    if program not in _BUILT:
        _BUILT[program] = _built(program, config)
    return _BUILT[program]


def _built(program: Program, config: FinetuneConfig) -> Program:
    again = programs.build(config, program.task, program.images, program.start, program.replicas)
    kernel, bias = program.replicas.from_primary(_classifier(program, config))
    params = again.variables["params"]
    classifier = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    head = {**params["head"], "classifier": classifier}
    return dataclasses.replace(again, variables={**again.variables, "params": {**params, "head": head}})


def _classifier(program: Program, config: FinetuneConfig) -> tuple[np.ndarray, np.ndarray]:
    """Fitted to training images, its penalty chosen on those that rehearsals leave out too."""
    start = program.start
    size = int(start.variables["params"]["head"]["classifier"]["kernel"].shape[0])
    wide = start.network.with_num_classes(size)

    def seen(variables: Variables, images: Any) -> Any:
        return wide.apply(variables, program.normalize(images))

    labels = program.images.splits["train"].labels
    held = held_out(len(labels), config.seed)
    others = np.delete(np.arange(len(labels)), held)
    generator = np.random.Generator(np.random.Philox(key=[config.seed, _STREAM]))
    fitted = np.sort(generator.permutation(others)[:MOST])
    rows = np.concatenate([fitted, held])
    variables = program.replicas.replicate(showing_features(start.variables, size))
    compute = compile_evaluation(of_centre(seen, program.images.image_size), program.replicas)
    features = np.asarray(compute(variables, Chosen(program.images.feeds["train"], rows), len(rows)))
    if not np.isfinite(features).all():
        raise UserError("--from_probe: features of the pretrained network are not finite")
    count = len(fitted)
    _, _, head = linear_probe.chosen(
        features[:count],
        labels[fitted],
        len(program.images.class_names),
        features[count:],
        labels[held],
        in_proportion=True,
    )
    return head


def showing_features(variables: Variables, size: int) -> Variables:
    """Variables of a network whose logits are what its classifier sees.

    Args:
        variables: of a network whose head ends in ``classifier``.
        size: features that it sees, and the classes that the network is to have.
    """
    params = variables["params"]
    identity = {"kernel": np.eye(size, dtype=np.float32), "bias": np.zeros(size, np.float32)}
    return {**variables, "params": {**params, "head": {**params["head"], "classifier": identity}}}
