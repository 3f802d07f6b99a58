"""Runs of routed methods: predictions, usage of blocks, interruptions, refused settings."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from routed import same
from small_runs import routed_run

import finetune_jax
from finetune_jax import models
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Stopped, UserError
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.models.card import read_best
from finetune_jax.runs import evaluate, finetune
from finetune_jax.training.stopping import StopRequest


@pytest.fixture(scope="module")
def one():
    return Replicas((jax.devices()[0],))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small pretrained network in a file, and photographs."""
    return routed_run(tmp_path_factory.mktemp("routed"))


def run_of(config, replicas, workdir):
    return finetune.run(dataclasses.replace(config, workdir=str(workdir)), replicas)


def outcome(workdir):
    """All that must not depend on interruptions, exactly."""
    _, variables = read_best(workdir)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in RunDirectory(workdir).read_metrics()]
    return [leaf.tobytes() for leaf in jax.tree.leaves(variables)], rows


@pytest.fixture(scope="module")
def finished(base, one, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "spottune"
    config = dataclasses.replace(base, eval_samples=3, checkpoint_steps=2)
    return workdir, config, run_of(config, one, workdir)


class TestRuns:
    def test_a_run_predicts_and_measures_as_its_summary_says(self, finished, base, one):
        workdir, _, summary = finished
        result = evaluate.measure(
            workdir, data_config_of(workdir), one, split="test", protocol="classification"
        )
        assert result["scores"]["accuracy"] == summary["test_accuracy"]
        assert result["scores"]["cross-entropy"] == pytest.approx(summary["test_loss"], rel=1e-5)
        predictor = finetune_jax.load(workdir)
        folder = base.dataset.removeprefix("folder:")
        probabilities = predictor([f"{folder}/{name}/00.png" for name in predictor.class_names])
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert predictor.embed(f"{folder}/sky/00.png").shape == (1, 32)

    def test_usage_per_block_is_in_metrics_summary_and_tables(self, finished):
        workdir, _, summary = finished
        rows = RunDirectory(workdir).read_metrics()
        shares = [[float(row[f"train_usage/block_{n:02d}"]) for n in (1, 2, 3)] for row in rows]
        assert len(rows) == 2
        assert all(0 < share < 1 for row in shares for share in row)
        usage = (workdir / "policy_usage.csv").read_text().splitlines()[1].split(",")
        np.testing.assert_allclose(list(map(float, usage[2:])), list(summary["usage"].values()), rtol=1e-6)
        counts = (workdir / "policy_counts.csv").read_text().splitlines()[1:]
        assert sum(int(line.split(",")[1]) for line in counts) == summary["images"]["test"]

    def test_sampled_policies_are_reported_with_their_spread(self, finished):
        _, _, summary = finished
        values = summary["sampled_test_accuracy_values"]
        assert len(values) == 3
        assert summary["sampled_test_accuracy"] == pytest.approx(np.mean(values))
        assert summary["sampled_test_accuracy_deviation"] == pytest.approx(np.std(values, ddof=1))

    @pytest.mark.parametrize("stop_at", [3, 8])
    def test_stopped_anywhere_it_ends_with_the_same_bits(self, stop_at, finished, one, tmp_path, monkeypatch):
        workdir, config, summary = finished
        asked = 0

        def ask(self):
            nonlocal asked
            asked += 1
            if asked == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.came

        with monkeypatch.context() as patched:
            patched.setattr(StopRequest, "__call__", ask)
            with pytest.raises(Stopped):
                run_of(config, one, tmp_path / "run")
        again = run_of(config, one, tmp_path / "run")
        assert outcome(tmp_path / "run") == outcome(workdir)
        assert again["sampled_test_accuracy_values"] == summary["sampled_test_accuracy_values"]

    def test_a_routed_run_is_no_start_for_another_one(self, finished):
        with pytest.raises(UserError, match="holds a routed network"):
            models.load_pretrained(str(finished[0]))

    def test_the_global_policy_leaves_an_ordinary_network_behind(self, base, one, tmp_path):
        config = dataclasses.replace(base, method="spottune_global", k=1)
        summary = run_of(config, one, tmp_path / "run")
        network, variables = models.load_pretrained(str(tmp_path / "run"))
        assert set(variables["params"]) == set(network.part_names)
        size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert summary["parameters"] == summary["parameters_of_full_fine_tuning"] == size
        (tuned,) = summary["tuned_blocks"]
        own = sum(
            leaf.size for name in (tuned, "head") for leaf in jax.tree.leaves(variables["params"][name])
        )
        assert summary["parameters_of_task"] == own < size
        assert summary["usage"][tuned] == max(summary["usage"].values())
        _, origin = models.load_pretrained(base.pretrained, architecture="resnet26_policy", width=0.125)
        kept = {name for name in origin["params"] if same(origin["params"][name], variables["params"][name])}
        assert kept == {"stem", "block_01", "block_02", "block_03"} - {tuned}
        result = evaluate.measure(
            tmp_path / "run", data_config_of(tmp_path / "run"), one, split="test", protocol="classification"
        )
        assert result["scores"]["accuracy"] == summary["test_accuracy"]

    def test_other_methods_and_heads_go_through(self, base, one, tmp_path):
        retrieval = dataclasses.replace(
            base,
            dataset="digits",
            protocol="retrieval",
            loss="proxy_anchor",
            batch_size=128,
            epochs=1,
            method="spottune_global",
        )
        for name, config in {
            "embedding": retrieval,
            "l2_sp": dataclasses.replace(base, method="l2_sp", policy_network="", epochs=1),
            "progressive": dataclasses.replace(base, method="progressive", policy_network="", epochs=1),
            "learn": dataclasses.replace(
                base, method="spottune_tuned", frozen_norm="learn", bfloat16=True, epochs=1
            ),
        }.items():
            run_of(config, one, tmp_path / name)
            assert finetune_jax.load(tmp_path / name).embed(np.zeros((8, 8, 3), np.uint8)).shape[0] == 1

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"method": "spottune_global", "k": 4}, r"--k=4: resnet26_policy has only 3 blocks"),
            (
                {"method": "spottune_global", "k": 3, "frozen_first": 1},
                "--k=3: .* only 2 blocks that are not frozen",
            ),
            ({"frozen_first": 3}, "--frozen_first=3 leaves none of the 3 blocks"),
            ({"policy_network": "resnet7"}, "--policy_network=resnet7 is not known"),
            ({"method": "random_policy", "policy_network": ""}, "always tunes the last 3 blocks"),
        ],
    )
    def test_settings_that_do_not_go_with_the_network_are_named(self, changes, named, base, one, tmp_path):
        with pytest.raises(UserError, match=named):
            run_of(dataclasses.replace(base, **changes), one, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "spottune", "temperature": 0.0}, "--temperature=0.0 is out of range"),
        ({"method": "spottune", "temperature": float("nan")}, "--temperature=nan is out of range"),
        ({"temperature": 1.0}, "--temperature=1.0 is for --method=spottune"),
        ({"method": "random_policy", "policy_momentum": 0.5}, "--policy_momentum=0.5 is for --method"),
        ({"method": "spottune", "k": 3}, "--k=3 is for --method=last_k or spottune_global"),
        ({"method": "spottune", "budget_weight": 2.0}, "--budget_weight=2.0 is for --method=spottune_global"),
        ({"method": "spottune_global", "budget_weight": -1.0}, "--budget_weight=-1.0 is out of range"),
        ({"method": "standard", "eval_samples": 2}, "--eval_samples=2 is for --method=spottune"),
        ({"method": "last_k", "frozen_norm": "learn"}, "--frozen_norm=learn is for --method=spottune"),
        ({"method": "l2_sp", "frozen_norm": "train"}, "which freezes nothing"),
        ({"method": "spottune", "pretrained": "none"}, "--method=spottune needs weights"),
        ({"method": "spottune", "lambda_novel": 0.1}, "--lambda_novel=0.1 is for --method=l2_sp"),
    ],
)
def test_settings_of_routing_that_make_no_sense_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        validate(dataclasses.replace(FinetuneConfig(), **changes))
