"""Training of routed networks: both copies, their policy, penalties and evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from routed import BATCH, IMAGES, INPUTS, NORMALIZE, RNG, pretrained, same

import finetune_jax
from finetune_jax import models
from finetune_jax.algorithms import augmentation, policies, spottune
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data.batch import Batch
from finetune_jax.devices.replicas import AXIS, Replicas
from finetune_jax.models.compositions.routed import RoutedNetwork, policy_for
from finetune_jax.reports import policy_tables
from finetune_jax.training import objectives, step
from finetune_jax.training import rates as training_rates
from finetune_jax.training.methods import registry as methods
from finetune_jax.training.methods import routed as routed_method
from finetune_jax.training.methods.l2_sp import l2_sp_penalty
from finetune_jax.training.methods.plain import Stochastic
from finetune_jax.training.state import create_state

LABELS = RNG.integers(0, 4, BATCH).astype(np.int32)
BASE = FinetuneConfig(method="spottune", frozen_first=1, policy_network="resnet26_policy")


def trained_by(config, replicas=None, steps=2, norm_axis=None):
    """The setup of a config, the state before and after some steps."""
    network, variables = pretrained(norm_axis)
    axis = AXIS if replicas else None
    setup = methods.create(config, network, variables, jax.random.key(3), axis_name=axis)
    optimizer = training_rates.optimizer(config, setup.trained, setup.rules(config))
    objective = objectives.objective(
        setup.forward, objectives.cross_entropy(), normalize=NORMALIZE, augment=augmentation.BY_NAME["none"]
    )
    totals = ("loss", "correct", "examples", *setup.totals)
    start = create_state(setup.variables, setup.trained, optimizer, key=jax.random.key(1), totals=totals)
    rates = setup.tuner(config, setup.trained).rates({}, 0)
    state = start.replace(opt_state=finetune_jax.optimizers.set_learning_rates(start.opt_state, rates))
    run = functools.partial(step.train_step, objective=objective, optimizer=optimizer, axis_name=axis)
    batch = (IMAGES, LABELS, np.arange(BATCH, dtype=np.int32))
    if replicas:
        run = replicas.map(run, (None, 0))
        state, batch = replicas.replicate(state), replicas.split(batch)
    else:
        run = jax.jit(run)
    for _ in range(steps):
        state = run(state, Batch(*batch))
    return setup, start, jax.device_get(state)


def changed(before, after, kind):
    """Names of the parts of which something changed."""
    return {
        name for name, tree in before.variables[kind].items() if not same(tree, after.variables[kind][name])
    }


@pytest.fixture(scope="module")
def after_two_steps():
    return trained_by(BASE)


class TestTraining:
    def test_frozen_copies_stay_as_pretrained_and_have_no_optimiser_slot(self, after_two_steps):
        _, before, after = after_two_steps
        moved = {"block_02", "block_03", "head", "policy"}
        assert changed(before, after, "params") == changed(before, after, "batch_stats") == moved
        _, variables = pretrained()
        for kind, trees in variables.items():
            for name in ("block_02", "block_03"):
                assert same(after.variables[kind][f"frozen_{name}"], trees[name])
        assert set(after.opt_state.inner_states) == set(after.params) == moved
        momentum = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim > 0]
        assert sum(m.size for m in momentum) == sum(p.size for p in jax.tree.leaves(after.params))

    @pytest.mark.parametrize("frozen_norm", ["train", "learn"])
    def test_the_frozen_path_may_use_batch_statistics_and_learn_its_norms(self, frozen_norm):
        config = dataclasses.replace(BASE, frozen_norm=frozen_norm)
        setup, before, after = trained_by(config)
        # Every part normalises with batch statistics; the head of this network has some too.
        assert changed(before, after, "batch_stats") == {
            *("stem", "block_01", "block_02", "block_03", "head", "policy"),
            *("frozen_block_02", "frozen_block_03"),
        }
        moved = {"block_02", "block_03", "head", "policy"}
        frozen = ("stem", "block_01", "frozen_block_02", "frozen_block_03")
        norms = {f"norms_of_{name}" for name in frozen} if frozen_norm == "learn" else set()
        assert changed(before, after, "params") == moved | norms
        # Taken apart and put together again, it is the pretrained network.
        tuned, copy = setup.model.copies(before.variables)
        assert same(tuned, pretrained()[1])
        assert same(copy, pretrained()[1])

    def test_decisions_do_not_depend_on_the_number_of_devices(self):
        config = dataclasses.replace(BASE, method="spottune_global", k=1, weight_decay=0.0)
        one, eight = (
            trained_by(config, Replicas(tuple(jax.devices()[:count])), norm_axis=AXIS)[2] for count in (1, 8)
        )
        for name, total in one.totals.items():
            if name.startswith("usage/"):
                assert eight.totals[name] == total
                assert 0 < total < 2 * BATCH
        assert {"usage/block_02", "usage/block_03"} <= set(one.totals)
        for kind in ("params", "batch_stats"):
            for ours, theirs in zip(
                jax.tree.leaves(eight.variables[kind]), jax.tree.leaves(one.variables[kind]), strict=True
            ):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_the_policy_has_an_optimiser_of_its_own(self):
        # Plain momentum and a decay of its own, written by hand; the gradient is that of the first step.
        config = dataclasses.replace(
            BASE, policy_learning_rate=0.3, policy_weight_decay=0.2, weight_decay=0.0
        )
        (_, start, once), (*_, lower) = (
            trained_by(dataclasses.replace(config, policy_weight_decay=decay), steps=1)
            for decay in (0.2, 0.0)
        )
        kernel = [s.params["policy"]["block_02"]["conv1"]["kernel"] for s in (start, once, lower)]
        np.testing.assert_allclose(kernel[1] - kernel[2], -0.3 * 0.2 * kernel[0], rtol=1e-3, atol=1e-6)
        assert np.abs(kernel[2] - kernel[0]).max() > 1e-6
        network = [s.params["block_03"]["conv1"]["kernel"] for s in (once, lower)]
        np.testing.assert_array_equal(*network)

    def test_a_pass_is_both_copies_mixed_by_the_drawn_decisions(self):
        # With batch statistics everywhere in the tuned copy, one image at a time is no oracle; a loop over
        # blocks with decisions drawn again from the same keys is.
        config = dataclasses.replace(BASE, frozen_first=0)
        network, variables = pretrained()
        setup = methods.create(config, network, variables, jax.random.key(3))
        keys = jax.random.split(jax.random.key(5), BATCH)
        params = {name: setup.variables["params"][name] for name in setup.trained}
        frozen = {n: t for n, t in setup.variables["params"].items() if n not in params}
        prediction = setup.forward(params, frozen, setup.variables["batch_stats"], INPUTS, keys)
        policy = {kind: trees["policy"] for kind, trees in setup.variables.items()}
        flat, _ = setup.model.policy.apply(policy, INPUTS, train=True)
        noise = np.stack([jax.random.gumbel(key, (3, 2)) for key in keys])
        decisions = (np.asarray(flat).reshape(BATCH, 3, 2) + noise).argmax(-1)
        x, _ = network.run(("stem",), variables, INPUTS)
        for column, name in enumerate(network.block_names):
            tuned, _ = network.run((name,), variables, x, train=True)
            kept, _ = network.run((name,), variables, x)
            x = jnp.where(decisions[:, column, None, None, None] == 1, tuned, kept)
        expected, _ = network.run(("head",), variables, x, train=True)
        np.testing.assert_allclose(prediction.outputs, expected, rtol=1e-5, atol=1e-5)
        for column, name in enumerate(network.block_names):
            assert prediction.totals[f"usage/{name}"] == decisions[:, column].sum()

    def test_the_global_penalty_is_equation_7(self):
        v = np.array([0.5, 0.25, 1.0])
        expected = 0.3 * (1.75 - 1) ** 2 + 0.7 * -(0.5 * np.log(0.5) + 0.25 * np.log(0.25))
        np.testing.assert_allclose(
            routed_method.global_penalty(1, 0.3, 0.7)(jnp.asarray(v)), expected, rtol=1e-6
        )

    def test_a_large_budget_weight_leads_to_k_blocks(self):
        config = dataclasses.replace(
            BASE, method="spottune_global", frozen_first=0, k=1, budget_weight=2.0, entropy_weight=1.0
        )
        *_, after = trained_by(dataclasses.replace(config, policy_learning_rate=0.1), steps=60)
        used = sum(float(after.totals[f"usage/block_{n:02d}"]) for n in (1, 2, 3)) / (60 * BATCH)
        assert 0.7 < used < 1.4  # from 1.5 when undecided


class TestEvaluation:
    def test_uniform_decisions_give_the_features_of_one_copy_bit_for_bit(self, after_two_steps):
        setup, _, after = after_two_steps
        network, origin = pretrained()
        model = setup.model
        tuned, frozen = model.copies(after.variables)
        for value, whole in ((0.0, origin), (1.0, tuned)):
            output, _ = spottune.features(
                network, tuned, frozen, INPUTS, jnp.full((BATCH, 2), value), routed=model.routed
            )
            expected, _ = network.run(network.part_names[:-1], whole, INPUTS)
            np.testing.assert_array_equal(output, expected)
        assert not same(tuned, origin)
        all_tuned = dataclasses.replace(model, all_tuned=True)
        np.testing.assert_array_equal(all_tuned.apply(after.variables, INPUTS), network.apply(tuned, INPUTS))
        np.testing.assert_array_equal(all_tuned.embed(after.variables, INPUTS), network.embed(tuned, INPUTS))

    def test_a_single_image_runs_only_the_copy_it_takes(self, after_two_steps):
        setup, _, after = after_two_steps
        decisions = np.asarray(setup.model.decisions(after.variables, INPUTS))
        whole = np.asarray(setup.model.apply(after.variables, INPUTS))
        single = jax.jit(setup.model.apply)
        for image in range(4):
            spoiled = dict(after.variables["params"])  # by copies that leave nothing of what passes through
            for name, decision in zip(setup.model.routed, decisions[image], strict=True):
                other = f"frozen_{name}" if decision else name
                spoiled[other] = jax.tree.map(lambda x: x * np.nan, spoiled[other])
            variables = {**after.variables, "params": spoiled}
            logits = single(variables, INPUTS[image : image + 1])
            np.testing.assert_allclose(logits[0], whole[image], rtol=1e-4, atol=1e-5)
        conditionals = str(jax.make_jaxpr(setup.model.apply)(after.variables, INPUTS[:1])).count("cond[")
        assert conditionals == len(setup.model.routed)

    def test_the_likelier_decision_is_taken_unless_a_draw_is_asked_for(self, after_two_steps):
        setup, _, after = after_two_steps
        logits, _ = setup.model.policy_logits(after.variables, INPUTS)
        likely = np.asarray(logits).argmax(-1)
        np.testing.assert_array_equal(setup.model.decisions(after.variables, INPUTS), likely)
        draws = np.stack(
            [
                dataclasses.replace(setup.model, draw=draw).decisions(after.variables, INPUTS)
                for draw in range(200)
            ]
        )
        share = np.exp(logits[..., 1]) / np.exp(logits).sum(-1)
        error = draws.mean(0) - share
        assert np.abs(error).max() < 5 * np.sqrt(0.25 / 200)
        assert np.abs(error).mean() < 0.05

    @pytest.mark.parametrize("method", ["spottune", "random_policy"])
    def test_a_draw_belongs_to_the_image_and_not_to_its_place(self, method):
        network = models.create("resnet26", num_classes=4, width=0.125)
        model = RoutedNetwork(network, None, draw=7)
        if method == "spottune":
            model = RoutedNetwork(network, policy_for(network, "resnet26_policy", 12), draw=7)
        variables = model.start(
            network.init(jax.random.key(0), INPUTS),
            jax.random.key(1),
            jax.ShapeDtypeStruct((1, 8, 8, 3), float),
        )
        decisions = np.asarray(model.decisions(variables, INPUTS))
        np.testing.assert_array_equal(model.decisions(variables, INPUTS[::-1]), decisions[::-1])
        assert len(np.unique(decisions, axis=0)) > 10
        if method == "random_policy":
            assert (decisions[:, -3:] == 1).all()
            assert 0.3 < decisions[:, :-3].mean() < 0.7

    def test_the_compact_network_is_the_routed_one_under_its_fixed_policy(self, after_two_steps):
        setup, _, after = after_two_steps
        network, origin = pretrained()
        compact = setup.model.compact(after.variables, ("block_03",))
        tuned, frozen = setup.model.copies(after.variables)
        decisions = jnp.tile(jnp.asarray([0.0, 1.0]), (BATCH, 1))
        routed = spottune.apply(network, tuned, frozen, INPUTS, decisions, routed=setup.model.routed)
        np.testing.assert_array_equal(network.apply(compact, INPUTS), routed)
        assert set(compact["params"]) == set(network.part_names)
        assert same(compact["params"]["block_02"], origin["params"]["block_02"])

    def test_the_most_used_blocks_keep_their_order(self):
        usage = {"block_01": 0.2, "block_02": 0.9, "block_03": 0.2, "block_04": 0.1}
        assert spottune.most_used(usage, 1) == ("block_02",)
        assert spottune.most_used(usage, 2) == ("block_02", "block_03")  # of equal ones the later
        assert spottune.most_used(usage, 4) == tuple(usage)


class TestOtherMethods:
    def test_stochastic_fine_tuning_draws_half_of_the_blocks_by_the_seed(self):
        network = models.create("resnet50", num_classes=4, width=0.125)

        def parts_of(seed):
            return Stochastic.trained_parts(FinetuneConfig(method="stochastic", seed=seed), network)

        drawn = {parts_of(seed) for seed in range(20)}
        assert len(drawn) == 20
        for parts in drawn:
            assert len(parts) == 9
            assert parts[-1] == "head"
            assert list(parts[:-1]) == sorted(set(parts[:-1]) & set(network.block_names))
        assert parts_of(3) == parts_of(3)

    def test_l2_sp_pulls_towards_the_start_and_new_parameters_towards_zero(self):
        config = FinetuneConfig(method="l2_sp", weight_decay=0.0, lambda_shared=0.3, lambda_novel=0.2)
        network, origin = pretrained()
        setup = methods.create(config, network, origin, jax.random.key(3))
        params = {
            n: jax.tree.map(lambda x: 1.1 * x + 0.01, setup.variables["params"][n]) for n in setup.trained
        }
        frozen = {n: t for n, t in setup.variables["params"].items() if n not in params}
        moved, new = 0.0, 0.0
        for path, leaf in jax.tree.leaves_with_path(params):
            names = [entry.key for entry in path]
            if names[:2] == ["head", "classifier"]:
                new += (np.asarray(leaf, np.float64) ** 2).sum()
                continue
            start = functools.reduce(lambda tree, name: tree[name], names, origin["params"])
            moved += (np.asarray(leaf - start, np.float64) ** 2).sum()
        penalty = l2_sp_penalty(0.3, 0.2)(params, frozen)
        np.testing.assert_allclose(penalty, 0.5 * 0.3 * moved + 0.5 * 0.2 * new, rtol=1e-5)
        keys = jax.random.split(jax.random.key(0), BATCH)
        assert setup.forward(params, frozen, origin["batch_stats"], INPUTS, keys).penalty == penalty


class TestPolicies:
    DECISIONS = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)

    def test_tables_are_those_of_a_loop_over_the_images(self):
        labels = np.array([2, 0, 2, 2])
        tables = policy_tables.files(self.DECISIONS, labels, ("a", "b", "c"), ("x", "y", "z"))
        usage = [line.split(",") for line in tables["policy_usage.csv"].splitlines()]
        assert usage[0] == ["class", "images", "x", "y", "z"]
        assert [row[:2] for row in usage[1:]] == [["all", "4"], ["a", "1"], ["c", "3"]]
        np.testing.assert_allclose(
            [[float(cell) for cell in row[2:]] for row in usage[1:]],
            [[0.75, 0.25, 0.5], [1, 0, 0], [2 / 3, 1 / 3, 2 / 3]],
            rtol=1e-6,
        )
        assert tables["policy_counts.csv"] == "tuned_blocks,images\n0,1\n1,1\n2,1\n3,1\n"

    def test_a_collapsed_policy_is_told(self):
        assert policies.collapse(self.DECISIONS) == ""
        assert "fine-tuned copy" in policies.collapse(np.ones((5, 3)))
        assert "frozen copy" in policies.collapse(np.zeros((5, 3)))
