"""One run of fine-tuning, from a config to a finished run directory."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax import (
    augmentation,
    checkpoints,
    evaluation,
    figures,
    methods,
    metrics,
    optimizers,
    report,
    schedules,
    step,
    training,
)
from finetune_jax import data as datasets
from finetune_jax.config import FinetuneConfig, validate
from finetune_jax.data.feeds import Feed, create_feed
from finetune_jax.data.order import training_order
from finetune_jax.errors import UserError
from finetune_jax.models import pretrained, registry
from finetune_jax.models.card import Card
from finetune_jax.models.network import Network
from finetune_jax.parallel import AXIS, Replicas
from finetune_jax.run_directory import RunDirectory

_EVALUATION_BATCH = 256


def run(config: FinetuneConfig, replicas: Replicas) -> dict[str, Any]:
    """Fine-tune, or go on with an unfinished run in the same directory.

    Args:
        config: everything about the run.
        replicas: the devices to train on.

    Returns:
        The content of ``summary.json``.

    Raises:
        UserError: the input is bad; says which flag or file.
        Stopped: SIGTERM came; the state is saved.
    """
    validate(config)
    if not config.workdir:
        raise UserError("--workdir is empty; name a directory for the run")
    replicas.check_batch_size(config.batch_size)
    directory = RunDirectory(Path(config.workdir).expanduser(), primary=replicas.is_primary)
    flags = dataclasses.asdict(config)
    directory.check(flags)
    if directory.summary is not None:
        return directory.summary
    began = time.monotonic()
    with replicas.together():
        job = _Job(config, replicas)
    # Only now: a mistake in a flag, found above, must not keep the directory from the corrected command.
    directory.claim(flags)
    rows = training.fit(job.initial_state(), job.training, job.plan, replicas, directory)
    logits = job.test_logits(directory)
    summary = job.summary(directory, rows, logits, time.monotonic() - began)
    if replicas.is_primary:
        _write_report(directory, config, summary, rows, logits, job)
        directory.write_summary(summary)
    return summary


class _Job:
    """The pieces of one run, built in the order in which they depend on each other."""

    def __init__(self, config: FinetuneConfig, replicas: Replicas) -> None:
        self.config = config
        self.replicas = replicas
        self.origin = load_origin(config)
        silent = not replicas.is_primary
        self.source = datasets.load_source(config, silent=silent)
        image_size = datasets.image_size(config, self.origin.image_size)
        self.splits = datasets.materialise(config, self.source, image_size, silent=silent)
        self._check_splits()

        classes = self.source.class_names
        self.key = jax.random.key(config.seed)
        self.network, self.variables = self._starting_point(len(classes))
        self.trained = methods.trained_parts(self.network, config.method, config.k)
        self.normalize = step.normalizer(self.origin.mean, self.origin.std)
        self.optimizer = optimizers.per_block_sgd(
            dict.fromkeys(self.trained),
            self.rates(0),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.feeds = self._feeds()
        train_step = functools.partial(
            step.train_step, objective=self._objective(), optimizer=self.optimizer, axis_name=AXIS
        )
        self.training = self.feeds["train"].compile_training(train_step)
        self.predict = evaluation.compile_evaluation(
            evaluation.classifier(self.network, self.normalize), replicas, _EVALUATION_BATCH
        )
        card = Card(
            architecture=self.network.architecture,
            width=self.network.width,
            blocks=len(self.network.blocks),
            class_names=classes,
            preprocessing=datasets.preprocessing(config, image_size, train=False),
            mean=self.origin.mean,
            std=self.origin.std,
            bfloat16=config.bfloat16,
        )
        selecting = {"validation": "validation_accuracy", "test": "test_accuracy", "last": ""}
        self.plan = training.Plan(
            epochs=config.epochs,
            batch_size=config.batch_size,
            order=self._order,
            rates=self.rates,
            evaluate=self._evaluate,
            score=selecting[config.select_on],
            patience=config.early_stopping,
            checkpoint_steps=config.checkpoint_steps,
            card=card.to_json(),
        )

    def initial_state(self) -> step.TrainState:
        """The state before the first step."""
        key = jax.random.fold_in(self.key, 1)
        return step.create_state(self.variables, self.trained, self.optimizer, key=key)

    def rates(self, epoch: int) -> dict[str, float]:
        """Learning rates of the trained parts."""
        config = self.config
        schedule = {
            "constant": lambda: schedules.constant(1.0),
            "step": lambda: schedules.multi_step(1.0, config.drop_epochs, config.drop_factor),
            "cosine": lambda: schedules.cosine(1.0, config.epochs),
        }[config.schedule]()
        head = config.head_learning_rate or config.learning_rate
        peaks = {name: head if name == "head" else config.learning_rate for name in self.trained}
        return {name: peak * schedule(epoch) for name, peak in peaks.items()}

    def test_logits(self, directory: RunDirectory) -> np.ndarray:
        """Logits ``[N, C]`` of the best checkpoint on the test images."""
        best = checkpoints.best_step(directory.checkpoints)
        if best is None:
            raise UserError(f"{directory.checkpoints} holds no evaluated checkpoint")
        variables = checkpoints.restore_variables(directory.checkpoints, best, self.variables)
        return self._logits(self.replicas.replicate(variables), "test")

    def summary(
        self, directory: RunDirectory, rows: list[dict[str, str]], logits: np.ndarray, seconds: float
    ) -> dict[str, Any]:
        """The run in numbers."""
        best = checkpoints.best_step(directory.checkpoints)
        row = next(row for row in rows if int(row["step"]) == best)
        sizes = [int(np.size(leaf)) for leaf in jax.tree.leaves(self.variables["params"])]
        trained = {name: self.variables["params"][name] for name in self.trained}
        return {
            "method": self.config.method,
            "network": self.network.architecture,
            "pretrained": self.config.pretrained if self.config.method != "scratch" else "none",
            "dataset": self.source.name,
            "classes": len(self.source.class_names),
            "images": {name: len(arrays.labels) for name, arrays in self.splits.items()},
            "notes": list(self.source.notes),
            "selected_on": self.config.select_on,
            "best_epoch": int(row["epoch"]),
            "epochs_trained": len(rows),
            "validation_accuracy": float(row["validation_accuracy"])
            if row.get("validation_accuracy")
            else None,
            **evaluation.classification_scores(logits, self.splits["test"].labels, "test"),
            "parameters": sum(sizes),
            "parameters_trained": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(trained)),
            "seconds": round(sum(float(row["seconds"]) for row in rows), 3),
            "seconds_of_this_start": round(seconds, 3),
            "devices": self.replicas.count,
        }

    def _check_splits(self) -> None:
        config = self.config
        count = len(self.splits["train"].labels)
        if count < config.batch_size:
            raise UserError(
                f"--batch_size={config.batch_size} is more than the {count} training images of {self.source.name}"
            )
        names = self.source.class_names
        absent = np.setdiff1d(np.arange(len(names)), self.splits["train"].labels)
        if absent.size:
            raise UserError(
                f"{self.source.name} has no training images of {', '.join(names[i] for i in absent[:10])}; "
                "add some, or remove the class"
            )
        if len(names) < 2:
            raise UserError(f"{self.source.name} has only the class {names[0]}; at least two are needed")
        if config.select_on == "validation" and not len(self.splits["validation"].labels):
            raise UserError("the validation split is empty; give --validation_fraction or --select_on=last")

    def _starting_point(self, num_classes: int) -> tuple[Network, Any]:
        key = jax.random.fold_in(self.key, 0)
        if self.config.method == "scratch" or self.config.pretrained == "none":
            network = self.origin.network.with_num_classes(num_classes)
            return network, network.init(key, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
        return pretrained.replace_head(self.origin.network, self.origin.variables, num_classes, key)

    def _feeds(self) -> dict[str, Feed]:
        config = self.config
        total = sum(arrays.images.nbytes for arrays in self.splits.values())
        steps = config.steps_per_dispatch or (1 if self.replicas.on_cpu else 64)
        resident = total <= config.device_data_gb * 1e9
        return {
            name: create_feed(arrays, self.replicas, resident=resident, steps_per_dispatch=steps)
            for name, arrays in self.splits.items()
            if len(arrays.labels)
        }

    def _objective(self) -> step.Objective:
        config = self.config
        name = config.augmentation
        if name == "auto":
            name = "none" if config.dataset == "digits" else "flip"
        weights = None
        if config.class_weights == "balanced":
            weights = balanced_class_weights(self.splits["train"].labels, len(self.source.class_names))
        return step.classification(
            self.network,
            normalize=self.normalize,
            augment=augmentation.BY_NAME[name],
            batch_norm_parts=self.network.part_names if config.frozen_norm == "train" else self.trained,
            label_smoothing=config.label_smoothing,
            class_weights=weights,
        )

    def _order(self, epoch: int) -> np.ndarray:
        labels = self.splits["train"].labels
        return training_order(
            len(labels),
            self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            balance=labels if self.config.balanced_sampling else None,
        )

    def _evaluate(self, state: step.TrainState) -> Mapping[str, float]:
        splits = [name for name in ("validation",) if name in self.feeds]
        if self.config.select_on == "test":
            splits.append("test")
        scores: dict[str, float] = {}
        for split in splits:
            scores |= self._scores(state.variables, split)
        return scores

    def _scores(self, variables: Any, split: str) -> Mapping[str, float]:
        logits = self._logits(variables, split)
        return evaluation.classification_scores(logits, self.splits[split].labels, split)

    def _logits(self, variables: Any, split: str) -> np.ndarray:
        return self.predict(variables, self.feeds[split], len(self.splits[split].labels))


def _write_report(
    directory: RunDirectory,
    config: FinetuneConfig,
    summary: Mapping[str, Any],
    rows: list[dict[str, str]],
    logits: np.ndarray,
    job: _Job,
) -> None:
    names = job.source.class_names
    matrix = metrics.confusion_matrix(logits.argmax(1), job.splits["test"].labels, len(names))
    pictures = {
        "training": figures.training_curves(rows, summary["best_epoch"]),
        "confusion": figures.confusion(matrix, names),
    }
    for name, picture in pictures.items():
        directory.write_file(f"{name}.png", picture)
    captions = {
        "Loss and accuracy per epoch; the dotted line is the epoch chosen": pictures["training"],
        "Confusion matrix of the test images": pictures["confusion"],
    }
    page = report.run_page(summary, dataclasses.asdict(config), rows, captions)
    directory.write_file("report.html", page.encode())


def load_origin(config: Any) -> pretrained.Pretrained:
    """The network a run starts from, with the origin's head; with fresh weights for ``--pretrained=none``.

    Raises:
        UserError: the weights are not to be had or do not fit.
    """
    settings = {
        "dtype": jnp.bfloat16 if config.bfloat16 else jnp.float32,
        "norm_momentum": config.norm_momentum,
        "norm_axis": AXIS if config.sync_batch_norm else None,
        "width": config.width,
    }
    if config.pretrained == "none":
        network = registry.create(config.network or "resnet26", **settings)
        return pretrained.Pretrained(network, {})
    origin = pretrained.resolve(config.pretrained, architecture=config.network or None, **settings)
    if config.width not in (1.0, origin.network.width):
        raise UserError(
            f"--width={config.width:g} contradicts --pretrained={config.pretrained}, "
            f"which has width {origin.network.width:g}"
        )
    if config.network and origin.network.architecture != config.network:
        raise UserError(
            f"--network={config.network} contradicts --pretrained={config.pretrained}, "
            f"which is a {origin.network.architecture}"
        )
    return origin


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Loss weight per class, float32 ``[num_classes]``: inverse to its frequency, 1 on average over images."""
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights
