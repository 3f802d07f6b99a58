"""SpotTune and its kin (Guo et al., CVPR 2019): two copies of each block, routed per image."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from finetune_jax.algorithms import metrics, optimizers, policies, spottune
from finetune_jax.algorithms.optimizers import Rule
from finetune_jax.config.resolution import number
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.models import registry
from finetune_jax.models.compositions.routed import (
    ALWAYS_TUNED,
    POLICY,
    RoutedNetwork,
    policy_for,
    random_decisions,
)
from finetune_jax.models.network import Model, Network, Variables
from finetune_jax.reports import policy_tables, run_figures
from finetune_jax.training.methods.method import Base, Findings, Method, TrainedRun, check_k
from finetune_jax.training.objectives import Forward, Prediction, Tree, random_streams
from finetune_jax.training.state import parameter_count

_USAGE = "usage/"  # how the names of totals begin: images of an epoch that took a block's fine-tuned copy


@dataclasses.dataclass(frozen=True)
class SpotTune(Method):
    """A policy network decides for every image which blocks it takes from the fine-tuned copy."""

    all_tuned: ClassVar[bool] = False
    """Whether every image takes the fine-tuned copies in evaluation, whatever the policy says."""

    model: RoutedNetwork

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """Two copies of the routed blocks, and the policy; see :meth:`Method.create`."""
        network = base.network
        count = len(network.blocks) - config.frozen_first
        if count < 1:
            raise UserError(
                f"--frozen_first={config.frozen_first} leaves none of the {len(network.blocks)} blocks of "
                f"{network.architecture} to route"
            )
        policy = cls.policy(config, network, count)
        model = RoutedNetwork(
            network,
            policy,
            config.frozen_first,
            all_tuned=cls.all_tuned,
            norms_apart=config.frozen_norm == "learn",
        )
        forward = routed_forward(
            model,
            temperature=config.temperature,
            train_frozen=config.frozen_norm != "eval",
            usage_penalty=cls.usage_penalty(config, network, count),
            axis_name=base.axis_name,
        )
        images = jax.ShapeDtypeStruct(network.example_shape, jnp.float32)
        return cls(
            network,
            model,
            model.start(base.variables, base.key, images),
            model.trained_parts,
            forward,
            totals=tuple(_USAGE + name for name in model.routed),
        )

    @classmethod
    def policy(cls, config: FinetuneConfig, network: Network, count: int) -> Network | None:
        """The policy network for ``count`` routed blocks; None draws at random.

        Raises:
            UserError: there is no such network.
        """
        default = "resnet26_policy" if network.architecture == "resnet26" else "resnet50_policy"
        architecture = config.policy_network or default
        if architecture not in registry.names():
            raise UserError(
                f"--policy_network={architecture} is not known; choose one of {', '.join(registry.names())}"
            )
        return policy_for(network, architecture, count)

    @classmethod
    def usage_penalty(
        cls, config: FinetuneConfig, network: Network, count: int
    ) -> Callable[[jax.Array], jax.Array] | None:
        """What is added to the loss for the shares of images ``[L]`` that take the fine-tuned copies."""
        del config, network, count
        return None

    def peak_rates(self, config: FinetuneConfig) -> Mapping[str, float]:
        """The policy's; norms of frozen parts learn like the rest of the network."""
        rates = dict.fromkeys(self.model.norm_parts, number(config.learning_rate))
        return rates if self.model.policy is None else {**rates, POLICY: config.policy_learning_rate}

    def rules(self, config: FinetuneConfig) -> Mapping[str, Rule]:
        """The policy's SGD."""
        if self.model.policy is None:
            return {}
        return {POLICY: optimizers.sgd(config.policy_momentum, False, config.policy_weight_decay)}

    @property
    def composition(self) -> Mapping[str, Any]:
        """Of both copies and the policy."""
        return self.model.to_json()

    def examine(self, run: TrainedRun) -> Findings:
        """Which blocks the test images take from the fine-tuned copy (Figures 3 and 4), and scores of draws."""
        decide = run.compile(lambda variables, images: self.model.decisions(variables, run.normalize(images)))
        decisions = run.test_outputs(decide, run.variables)
        summary: dict[str, Any] = {
            "usage": dict(zip(self.model.routed, map(float, decisions.mean(0)), strict=True)),
            "tuned_block_counts": [int(count) for count in policies.tuned_block_counts(decisions)],
        }
        if run.config.eval_samples:
            name = f"test_{run.task.score}"
            samples = self._sampled_scores(run, name)
            mean, spread = metrics.mean_and_spread(samples)
            summary[f"sampled_{name}"], summary[f"sampled_{name}_deviation"] = mean, spread
            summary[f"sampled_{name}_values"] = samples
        collapse = policies.collapse(decisions)
        columns = (decisions, run.test_labels, run.class_names, self.model.routed)
        return Findings(
            summary,
            notes=[collapse] if collapse else [],
            files=policy_tables.files(*columns),
            draw=lambda: run_figures.of_policy(*columns, run.dataset),
        )

    def _sampled_scores(self, run: TrainedRun, name: str) -> list[float]:
        """A test score under each of ``--eval_samples`` policies drawn from the policy network."""

        def outputs(variables: Any, images: jax.Array) -> jax.Array:
            drawn = dataclasses.replace(self.model, draw=variables["draw"])
            weights = {kind: tree for kind, tree in variables.items() if kind != "draw"}
            return run.task.outputs(drawn, run.normalize)(weights, images)

        predict = run.compile(outputs)
        draws = [run.replicas.replicate(np.uint32(draw)) for draw in range(run.config.eval_samples)]
        return [run.test_scores(predict, {**run.variables, "draw": draw})[name] for draw in draws]


@dataclasses.dataclass(frozen=True)
class SpotTuneTuned(SpotTune):
    """SpotTune, evaluated with the fine-tuned copies alone."""

    all_tuned = True


@dataclasses.dataclass(frozen=True)
class RandomPolicy(SpotTune):
    """Every image takes random blocks from the fine-tuned copy, and always the last few."""

    @classmethod
    def policy(cls, config: FinetuneConfig, network: Network, count: int) -> Network | None:
        """None.

        Raises:
            UserError: no block would be drawn.
        """
        del config, network
        if count <= ALWAYS_TUNED:
            raise UserError(
                f"--method=random_policy always tunes the last {ALWAYS_TUNED} blocks, and here only {count} "
                "are routed; lower --frozen_first or --prune_depth"
            )
        return None


@dataclasses.dataclass(frozen=True)
class SpotTuneGlobal(SpotTune):
    """The ``--k`` blocks that the policy fine-tunes most often are fine-tuned for all images (section 3.3).

    Attributes:
        k: that number.
    """

    k: int = 0

    @classmethod
    def create(cls, config: FinetuneConfig, base: Base) -> Self:
        """As of SpotTune; see :meth:`Method.create`."""
        routed = super().create(config, base)
        return dataclasses.replace(routed, k=config.k)

    @classmethod
    def usage_penalty(
        cls, config: FinetuneConfig, network: Network, count: int
    ) -> Callable[[jax.Array], jax.Array] | None:
        """Eq. 7.

        Raises:
            UserError: ``--k`` is more than the routed blocks.
        """
        check_k(config.k, count, network)
        return global_penalty(config.k, config.budget_weight, config.entropy_weight)

    @property
    def measured(self) -> Model:
        """The plain network."""
        return self.network

    @property
    def makes_compact(self) -> bool:
        """One copy of each block is enough."""
        return True

    def chosen(self, totals: Mapping[str, float]) -> tuple[str, ...]:
        """Names of the blocks that are taken from the fine-tuned copy."""
        return spottune.most_used(_usage(totals), self.k)

    def result(self, variables: Variables, totals: Mapping[str, float]) -> Variables:
        """The plain network: the chosen blocks fine-tuned, the others as pretrained."""
        compact = self.model.compact(variables, self.chosen(totals))
        beside = {
            name: tree for name, tree in variables["params"].items() if name not in self.model.part_names
        }
        return {**compact, "params": {**compact["params"], **beside}}

    def examine(self, run: TrainedRun) -> Findings:
        """The chosen blocks, and what a task costs."""
        chosen = self.chosen(run.totals)
        params = self.network.shapes()["params"]
        return Findings(
            {
                "usage": _usage(run.totals),
                "tuned_blocks": list(chosen),
                "parameters": parameter_count(params),
                # What a further task costs beside the pretrained network, and what fine-tuning all of it costs.
                "parameters_of_task": parameter_count({name: params[name] for name in (*chosen, "head")}),
                "parameters_of_full_fine_tuning": parameter_count(params),
            }
        )


def _usage(totals: Mapping[str, float]) -> dict[str, float]:
    """``{block: images that took its fine-tuned copy}``, as a number or a share."""
    return {name.removeprefix(_USAGE): total for name, total in totals.items()}


def global_penalty(k: int, budget_weight: float, entropy_weight: float) -> Callable[[jax.Array], jax.Array]:
    """``λ1 l_k + λ2 l_e`` of the usage ``v [L]`` (SpotTune, Eq. 7)."""
    return lambda usage: (
        budget_weight * spottune.budget_loss(usage, k) + entropy_weight * spottune.entropy_loss(usage)
    )


def routed_forward(
    model: RoutedNetwork,
    *,
    temperature: float = 5.0,
    train_frozen: bool = False,
    usage_penalty: Callable[[jax.Array], jax.Array] | None = None,
    axis_name: str | None = None,
) -> Forward:
    """Both copies of a routed network, decisions drawn for every image (SpotTune, sections 3.1 to 3.3).

    Of every routed block it also gives the total ``usage/BLOCK``, the number of images that were fine-tuned.

    Args:
        model: the routed network; its policy, if it has one, trains through the straight-through estimator.
        temperature: of that estimator.
        train_frozen: whether frozen parts normalise with batch statistics.
        usage_penalty: of the share of images ``v [L]`` that take the fine-tuned copy of each block.
        axis_name: mapped axis over which ``v`` is a share; None for a single replica.
    """
    network, routed = model.network, model.routed
    below = ("stem", *network.block_names[: model.first])
    train_tuned = (*routed, *[name for name in below if train_frozen])
    changing = (*routed, "head", *[name for name in model.frozen_parts if train_frozen])

    def function(
        params: Tree, frozen: Tree, batch_stats: Tree, images: jax.Array, keys: jax.Array
    ) -> Prediction:
        variables = {"params": {**frozen, **params}, "batch_stats": batch_stats}
        rngs = random_streams(keys)
        updated = {}
        if model.policy is None:
            decisions = random_decisions(keys, len(routed))
        else:
            logits, updated[POLICY] = model.policy_logits(variables, images, train=True)
            draw = functools.partial(spottune.sample_decisions, temperature=temperature)
            decisions = jax.vmap(draw)(keys, logits)
        tuned, pretrained = model.copies(variables)
        features, statistics = spottune.features(
            network,
            tuned,
            pretrained,
            images,
            decisions,
            routed=routed,
            train_tuned=train_tuned,
            train_frozen=network.block_names if train_frozen else (),
            rngs=rngs,
        )
        outputs, of_head = network.run(("head",), tuned, features, train=("head",), rngs=rngs)
        of_blocks = {**model.new_statistics(statistics), **of_head}
        updated |= {name: of_blocks[name] for name in changing}
        used = {_USAGE + name: decisions[:, column].sum() for column, name in enumerate(routed)}
        penalty: jax.Array | float = 0.0
        if usage_penalty is not None:
            usage = spottune.usage(decisions)
            # Eq. 5 and 6 are of the whole batch, and not linear in the shares of replicas.
            penalty = usage_penalty(usage if axis_name is None else jax.lax.pmean(usage, axis_name))
        return Prediction(outputs, updated, penalty, used)

    return function
