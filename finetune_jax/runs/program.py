"""Runs of fine-tuning, alone or several at once, from configs to finished run directories."""

import copy
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax import data as datasets
from finetune_jax.algorithms import augmentation, metrics, policies, spottune
from finetune_jax.config import resolution
from finetune_jax.config.choices import AUTO
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.batch import Batch
from finetune_jax.data.feeds import Arrays, Feed, create_feed
from finetune_jax.data.order import training_order
from finetune_jax.data.statistics import channel_statistics
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.errors import UserError
from finetune_jax.files import checkpoints
from finetune_jax.files.run_directory import RunDirectory
from finetune_jax.models import pruning, registry
from finetune_jax.models.card import Card, shapes_of
from finetune_jax.models.compositions.routed import RoutedNetwork
from finetune_jax.models.network import Network
from finetune_jax.models.normalization import normalizer
from finetune_jax.models.weights import pretrained
from finetune_jax.reports import tables
from finetune_jax.runs import domains, references, same_run
from finetune_jax.runs.images import _augmentation
from finetune_jax.runs.result import _write_report
from finetune_jax.runs.start import load_origin
from finetune_jax.runs.summary import _best_row, _size
from finetune_jax.training import evaluation, lockstep, loop, objectives, step, tasks
from finetune_jax.training import rates as training_rates
from finetune_jax.training.methods import by_name
from finetune_jax.training.plan import AfterEpoch, Plan
from finetune_jax.training.state import TrainState, create_state

_EVALUATION_BATCH = 256


class _Job:
    """The pieces of one run, built in the order in which they depend on each other."""

    def __init__(
        self,
        config: FinetuneConfig,
        replicas: Replicas,
        after_epoch: AfterEpoch | None = None,
        *,
        chosen_before: Mapping[str, Any] | None = None,
    ) -> None:
        """Build them.

        Args:
            config: of the run.
            replicas: the devices.
            after_epoch: see ``training.Plan``.
            chosen_before: ``resolved`` of an earlier start of this run; what was chosen then is not again.
        """
        self.given = config
        self.config = config
        self.after_epoch = after_epoch
        self.replicas = replicas
        self.task = tasks.create(config)
        self.origin = load_origin(config)
        silent = not replicas.is_primary
        self.source = datasets.load_source(config, silent=silent)
        same_run.agree_on_images(self.source)
        if config.predict_unlabelled and not self.source.unlabelled:
            raise UserError(f"--predict_unlabelled: all images of {self.source.name} have labels")
        self.class_names = self.task.class_names(self.source)
        image_size = datasets.image_size(config, self.origin.image_size)
        self.splits = datasets.materialise(config, self.source, image_size, silent=silent)
        self.unlabelled = {}
        if config.predict_unlabelled:
            # Before training and not after it: a damaged image should not be found days later.
            self.unlabelled = datasets.materialise_unlabelled(config, self.source, image_size, silent=silent)
        self._check_splits()
        self.steps_per_epoch = len(self._order(0))
        self.reason = ""
        if config.learning_rate == AUTO:
            config = self._with_chosen_rate(config, chosen_before)
        self.config = config = resolution.resolve(config, steps_per_epoch=self.steps_per_epoch)
        norm_momentum = resolution.number(config.norm_momentum)
        network = registry.with_norm_momentum(self.origin.network, norm_momentum)
        self.origin = dataclasses.replace(self.origin, network=network)

        self.key = jax.random.key(config.seed)
        self.setup = by_name.setup(
            config, *self._starting_point(), jax.random.fold_in(self.key, 3), axis_name=AXIS
        )
        self.network = self.setup.network
        beside = self.task.parts_beside_network(len(self.class_names), jax.random.fold_in(self.key, 2))
        variables = self.setup.variables
        self.variables = {**variables, "params": {**variables["params"], **beside}}
        self.trained = (*self.setup.trained, *beside)
        mean, std = self.origin.mean, self.origin.std
        if config.normalization == "dataset":
            mean, std = channel_statistics(self.splits["train"].images)
        self.normalize = normalizer(mean, std)
        self.feeds = self._feeds()
        self.objective = objectives.objective(
            self.setup.forward,
            self.task.loss(self.splits["train"].labels, len(self.class_names)),
            normalize=self.normalize,
            augment=augmentation.create(
                _augmentation(config),
                image_size,
                shorter_side=datasets.shorter_side(config, image_size),
                color_jitter=config.color_jitter,
                hue_jitter=config.hue_jitter,
            ),
        )
        # Its hyperparameters are in the state, so a run with others is the same program.
        self.optimizer = training_rates.optimizer(config, self.trained)
        self.train_step = functools.partial(
            step.train_step, objective=self.objective, optimizer=self.optimizer, axis_name=AXIS
        )
        self.training = self.feeds["train"].compile_training(self.train_step)
        self.predict = evaluation.compile_evaluation(
            self.task.outputs(self.setup.measured, self.normalize), replicas, _EVALUATION_BATCH
        )
        self.card = Card(
            architecture=self.network.architecture,
            width=self.network.width,
            blocks=len(self.network.blocks),
            class_names=self.class_names,
            preprocessing=datasets.preprocessing(config, image_size, train=False),
            mean=mean,
            std=std,
            bfloat16=config.bfloat16,
            head=self.network.head_name,
            composition=self.setup.composition,
            beside=shapes_of({name: self.variables["params"][name] for name in self.setup.references}),
        )
        self.plan = self._plan()

    def with_settings_of(self, config: FinetuneConfig, after_epoch: AfterEpoch | None = None) -> "_Job":
        """The run of a config that differs in runtime settings, with the data and programs of this one."""
        job = copy.copy(self)
        job.given, job.after_epoch = config, after_epoch
        job.config = resolution.resolve(config, steps_per_epoch=self.steps_per_epoch)
        job.optimizer = training_rates.optimizer(job.config, job.trained)
        job.plan = job._plan()
        return job

    def run(self, directory: RunDirectory, began: float) -> dict[str, Any]:
        """Train alone, and :meth:`finish`."""
        self.claim(directory)
        loop.fit(self.initial_state(), self.training, self.plan, self.replicas, directory)
        return self.finish(directory, began)

    def claim(self, directory: RunDirectory) -> None:
        """Make it the directory of this run, and tell the rates."""
        # Only now: a mistake in a flag, found before, must not keep the directory from the corrected command.
        same_run.claim(directory, dataclasses.asdict(self.given), self.resolved)
        if self.replicas.is_primary:
            if self.reason:
                print(f"--learning_rate=auto: {self.reason}", file=sys.stderr)
            print(resolution.line(resolution.values(self.config), self.steps_per_epoch), file=sys.stderr)

    def finish(self, directory: RunDirectory, began: float) -> dict[str, Any]:
        """Test what was trained, write what the run directory lacks, and return the summary.

        Args:
            directory: of the run, trained to the end.
            began: value of ``time.monotonic`` at its start.
        """
        rows = directory.read_metrics()
        best = self.best_variables(directory, rows)
        self.write_compact(directory, best)
        variables = self.replicas.replicate(best)
        outputs, gallery = self.test_outputs(variables)
        scores = self.test_scores(outputs, gallery)
        summary = self.summary(directory, rows, scores, time.monotonic() - began)
        decisions = self.decisions(variables)
        more = self.policy_summary(variables, decisions, directory, rows)
        summary |= more | {"notes": summary["notes"] + more.get("notes", [])}
        self.label_unlabelled(variables, directory)
        if self.replicas.is_primary:
            _write_report(directory, self.given, summary, rows, outputs, gallery, decisions, self)
            directory.write_summary(summary)
        return summary

    def lanes(self, count: int) -> lockstep.Lanes:
        """The step of so many runs like this one."""
        images = self.splits["train"].images
        number: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
        image: Any = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
        batch = Batch(image, number, number)
        changing = lockstep.changing_statistics(self.objective, self.initial_state(), batch)
        return lockstep.Lanes(count, self.train_step, changing, self.feeds["train"], self.replicas)

    @property
    def resolved(self) -> dict[str, Any]:
        """The rates of the run, and why, for ``flags.json``."""
        return resolution.values(self.config) | ({"reason": self.reason} if self.reason else {})

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        totals = (
            ("loss", "examples") if self.config.loss == "proxy_anchor" else ("loss", "correct", "examples")
        )
        key = jax.random.fold_in(self.key, 1)
        totals = (*totals, *self.setup.totals)
        return create_state(self.variables, self.trained, self.optimizer, key=key, totals=totals)

    def best_variables(self, directory: RunDirectory, rows: list[dict[str, str]]) -> Any:
        """Variables of the best checkpoint as prediction uses them, on the host."""
        best = checkpoints.best_step(directory.checkpoints)
        if best is None:
            raise UserError(f"{directory.checkpoints} holds no evaluated checkpoint")
        variables = checkpoints.restore_variables(directory.checkpoints, best, self.variables)
        return self.setup.result(variables, self._usage(_best_row(directory, rows)))

    def write_compact(self, directory: RunDirectory, variables: Any) -> None:
        """Save the result, where it holds less than what was trained."""
        if self.setup.tuned_blocks is None:
            return
        best = checkpoints.best_step(directory.checkpoints)
        assert best is not None
        score = checkpoints.read_meta(directory.checkpoints, best)["score"]
        card = dataclasses.replace(self.card, composition={})
        with self.replicas.together():
            saver = checkpoints.Checkpoints(directory.compact, writable=self.replicas.is_primary)
            saver.save(best, {"variables": variables}, card.to_json(), score=score)
            saver.close()

    def summary(
        self,
        directory: RunDirectory,
        rows: list[dict[str, str]],
        test_scores: Mapping[str, float],
        seconds: float,
    ) -> dict[str, Any]:
        """The run in numbers."""
        row = _best_row(directory, rows)
        selected = f"validation_{self.task.score}"
        params = {
            name: tree for name, tree in self.variables["params"].items() if name not in self.setup.references
        }
        return {
            "method": self.config.method,
            "protocol": self.config.protocol,
            "network": self.network.architecture,
            "blocks": len(self.network.blocks),
            "pretrained": self.config.pretrained if self.config.method != "scratch" else "none",
            "dataset": self.source.name,
            "classes": len(self.class_names),
            "images": {name: len(arrays.labels) for name, arrays in self.splits.items()},
            "notes": [*self.source.notes, *([f"learning rate: {self.reason}"] if self.reason else [])],
            "score": f"test_{self.task.score}",
            "selected_on": self.config.select_on,
            "best_epoch": int(row["epoch"]),
            "epochs_trained": len(rows),
            # Passes over the training images, those that AutoLR threw away included.
            "passes": int(rows[-1]["step"]) // self.steps_per_epoch,
            **resolution.values(self.config),
            selected: float(row[selected]) if row.get(selected) else None,
            **test_scores,
            "parameters": _size(params),
            "parameters_trained": _size({name: params[name] for name in self.trained}),
            "parameters_of_parts": {name: _size(tree) for name, tree in params.items()},
            "trained_parts": list(self.trained),
            "seconds": round(sum(float(row["seconds"]) for row in rows), 3),
            # Without the first epoch, which compiles, where there are others.
            "seconds_per_epoch": statistics.median(float(row["seconds"]) for row in rows[len(rows) > 1 :]),
            "seconds_of_this_start": round(seconds, 3),
            "devices": self.replicas.count,
        }

    def decisions(self, variables: Any) -> np.ndarray | None:
        """Of the test images, ``[N, L]``; None for methods whose result does not decide per image."""
        model = self.setup.measured
        if not isinstance(model, RoutedNetwork):
            return None
        decide = evaluation.compile_evaluation(
            lambda variables, images: model.decisions(variables, self.normalize(images)),
            self.replicas,
            _EVALUATION_BATCH,
        )
        return decide(variables, self.feeds["test"], len(self.splits["test"].labels))

    def policy_summary(
        self,
        variables: Any,
        decisions: np.ndarray | None,
        directory: RunDirectory,
        rows: list[dict[str, str]],
    ) -> dict[str, Any]:
        """What the policy does, for ``summary.json``; nothing for methods without one."""
        if self.setup.tuned_blocks is not None:
            usage = self._usage(_best_row(directory, rows))
            chosen = spottune.most_used(usage, self.setup.tuned_blocks)
            whole = self.network.shapes()["params"]
            return {
                "usage": usage,
                "tuned_blocks": list(chosen),
                "parameters": _size(whole),
                # What a further task costs beside the pretrained network, and what fine-tuning all of it costs.
                "parameters_of_task": _size({name: whole[name] for name in (*chosen, "head")}),
                "parameters_of_full_fine_tuning": _size(whole),
            }
        model = self.setup.model
        if decisions is None or not isinstance(model, RoutedNetwork):
            return {}
        found: dict[str, Any] = {
            "usage": dict(zip(model.routed, map(float, decisions.mean(0)), strict=True)),
            "tuned_block_counts": [int(count) for count in policies.tuned_block_counts(decisions)],
        }
        if remark := policies.collapse(decisions):
            found["notes"] = [remark]
            if self.replicas.is_primary:
                print(f"warning: {remark}", file=sys.stderr)
        if self.config.eval_samples:
            name = f"test_{self.task.score}"
            samples = [
                self._sampled_scores(variables, draw)[name] for draw in range(self.config.eval_samples)
            ]
            found[f"sampled_{name}"], found[f"sampled_{name}_deviation"] = metrics.mean_and_spread(samples)
            found[f"sampled_{name}_values"] = samples
        return found

    def test_outputs(
        self, variables: Any, predict: evaluation.Evaluation | None = None
    ) -> tuple[np.ndarray, tuple[np.ndarray, Arrays] | None]:
        """Outputs ``[N, …]`` of the test images, and of the gallery with its images where there is one."""
        gallery = None
        if "gallery" in self.splits:
            gallery = (self._outputs(variables, "gallery", predict), self.splits["gallery"])
        return self._outputs(variables, "test", predict), gallery

    def test_scores(self, outputs: np.ndarray, gallery: tuple[np.ndarray, Arrays] | None) -> dict[str, float]:
        """Scores of :meth:`test_outputs`."""
        searched = None if gallery is None else (gallery[0], gallery[1].labels)
        return self.task.scores(outputs, self.splits["test"].labels, "test", searched)

    def label_unlabelled(self, variables: Any, directory: RunDirectory) -> None:
        """Write ``predictions-SPLIT.csv`` of every split without labels, if asked for."""
        for split, arrays in self.unlabelled.items():
            feed = create_feed(arrays, self.replicas, resident=False, steps_per_dispatch=1)
            labels = self.predict(variables, feed, len(arrays.labels)).argmax(1)
            names = [self.source.unlabelled[split].names[i] for i in arrays.kept]
            table = tables.predictions_csv(names, labels, self.class_names)
            directory.write_file(f"predictions-{split}.csv", table.encode())

    def _outputs(
        self, variables: Any, split: str, predict: evaluation.Evaluation | None = None
    ) -> np.ndarray:
        return (predict or self.predict)(variables, self.feeds[split], len(self.splits[split].labels))

    def _plan(self) -> Plan:
        config = self.config
        return Plan(
            epochs=config.epochs,
            batch_size=config.batch_size,
            order=self._order,
            tuner=training_rates.tuner(config, self.trained),
            evaluate=self._evaluate,
            score="" if config.select_on == "last" else f"{config.select_on}_{self.task.score}",
            patience=config.early_stopping,
            checkpoint_steps=config.checkpoint_steps,
            keep_trials=config.keep_trials,
            after_epoch=self.after_epoch,
            card=self.card.to_json(),
        )

    def _usage(self, row: Mapping[str, Any]) -> dict[str, float]:
        """``{block: share}`` of the images of an epoch that were fine-tuned, from its row of metrics."""
        return {name.removeprefix("usage/"): float(row[f"train_{name}"]) for name in self.setup.totals}

    def _sampled_scores(self, variables: Any, draw: int) -> dict[str, float]:
        """Scores of the test split under a policy drawn from the policy network."""
        drawn = self.replicas.replicate(np.uint32(draw))
        return self.test_scores(*self.test_outputs({**variables, "draw": drawn}, self._predict_sampled))

    @functools.cached_property
    def _predict_sampled(self) -> evaluation.Evaluation:
        model = self.setup.model
        assert isinstance(model, RoutedNetwork)

        def outputs(variables: Any, images: jax.Array) -> jax.Array:
            drawn = dataclasses.replace(model, draw=variables["draw"])
            own = {kind: tree for kind, tree in variables.items() if kind != "draw"}
            return self.task.outputs(drawn, self.normalize)(own, images)

        return evaluation.compile_evaluation(outputs, self.replicas, _EVALUATION_BATCH)

    def _check_splits(self) -> None:
        config = self.config
        count = len(self.splits["train"].labels)
        if count < config.batch_size:
            raise UserError(
                f"--batch_size={config.batch_size} is more than the {count} training images of {self.source.name}"
            )
        if config.select_on == "validation" and not len(self.splits["validation"].labels):
            raise UserError("the validation split is empty; give --validation_fraction or --select_on=last")

    def _with_chosen_rate(self, config: FinetuneConfig, before: Mapping[str, Any] | None) -> FinetuneConfig:
        """The config with the rate that similarity recommends.

        Nothing of the run depends on how it was found: the features are of the weights as they came, and no random
        number is drawn.
        """
        if before is not None:
            self.reason = before["reason"]
            return changed(config, learning_rate=before["learning_rate"])
        known = references.load(config.reference, self.origin.network.architecture)
        # Class means from a file or of bundled weights have an image size of their own.
        stored = not config.source or config.source.endswith(".npz")
        reading = dataclasses.replace(config, image_size=0) if stored else config
        prober = domains.Prober(reading, self.origin, self.replicas, pretrained=config.pretrained)
        source = prober.source(config.source)
        target = prober.opened(self.source, flag="dataset", image_size=source.image_size)
        found = references.judge(source, target, known)
        self.reason = found["reason"] + (f" (note: {known.remark})" if known.remark else "")
        return changed(config, effective_learning_rate=found["effective_learning_rate"])

    def _starting_point(self) -> tuple[Network, Any]:
        config, origin = self.config, self.origin
        key = jax.random.fold_in(self.key, 0)
        if config.prune_depth >= len(origin.network.blocks):
            raise UserError(
                f"--prune_depth={config.prune_depth} leaves none of the {len(origin.network.blocks)} blocks "
                f"of {origin.network.architecture}"
            )
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        if config.method == "scratch" or config.pretrained == "none":
            network = registry.with_head(origin.network, len(self.class_names), self.task.head)
            network = pruning.truncate(network, config.prune_depth)
            return network, network.init(key, images)
        network, variables = pretrained.replace_head(
            origin.network, origin.variables, len(self.class_names), key, head=self.task.head
        )
        if not config.prune_depth:
            return network, variables
        network = pruning.truncate(network, config.prune_depth)
        variables = pruning.truncate_variables(variables, config.prune_depth)
        return network, pruning.fit_head(network, variables, key, images)

    def _feeds(self) -> dict[str, Feed]:
        config = self.config
        total = sum(arrays.images.nbytes for arrays in self.splits.values())
        steps = config.steps_per_dispatch or (1 if self.replicas.on_cpu else 64)
        resident = total <= config.device_data_gb * 1e9
        return {
            name: create_feed(
                arrays,
                self.replicas,
                resident=resident,
                steps_per_dispatch=steps,
                aspects=datasets.stretched_aspects(config, arrays) if name == "train" else None,
            )
            for name, arrays in self.splits.items()
            if len(arrays.labels)
        }

    def _order(self, epoch: int) -> np.ndarray:
        labels = self.splits["train"].labels
        return training_order(
            len(labels),
            self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            balance=labels if self.config.balanced_sampling else None,
        )

    def _evaluate(self, state: TrainState) -> Mapping[str, float]:
        totals = {name: float(state.totals[name]) for name in self.setup.totals}
        usage = {name.removeprefix("usage/"): total for name, total in totals.items()}
        variables = self.setup.result(state.variables, usage)
        scores: dict[str, float] = {}
        if "validation" in self.feeds:
            outputs = self._outputs(variables, "validation")
            scores |= self.task.scores(outputs, self.splits["validation"].labels, "validation")
        if self.config.select_on == "test":
            scores |= self.test_scores(*self.test_outputs(variables))
        return scores
