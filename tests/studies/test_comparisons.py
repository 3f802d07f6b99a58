"""Studies that compare: the choice of a rate, pruning, AutoLR, α and β."""

import dataclasses
import math
from typing import Any

import pytest
from made_up_study import BASE, MadeUp

from finetune_jax.algorithms import metrics
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.reports import alpha_beta as alpha_beta_report
from finetune_jax.reports import autolr as autolr_report
from finetune_jax.reports import pruning as pruning_report
from finetune_jax.reports import study_report
from finetune_jax.studies import alpha_beta, autolr, comparison, prune
from finetune_jax.studies.comparison import Entry, Protocol


def peaked(best: float, height: float = 0.9) -> Any:
    return lambda rate: height - 0.1 * abs(math.log10(rate / best))


# --- choosing ------------------------------------------------------------------------------------------------


def choose(formulas: dict[str, Any], rates: tuple[float, ...], **more: Any) -> dict[str, comparison.Choice]:
    entries = [Entry(name, {}) for name in formulas]
    protocol = Protocol(rates, (0, 1), (2,), **more)
    score = lambda entry, rate, seed: formulas[entry.name](rate) + 0.001 * seed  # noqa: E731
    return {choice.entry.name: choice for choice in comparison.choose(entries, protocol, score)}


def test_the_grid_is_widened_for_all_until_no_best_lies_at_its_edge() -> None:
    found = choose({"low": peaked(0.001), "high": peaked(0.1)}, (0.003, 0.01, 0.03))
    assert found["low"].rate == pytest.approx(0.001)
    assert found["high"].rate == pytest.approx(0.1)
    grids = [sorted(choice.tried) for choice in found.values()]
    assert grids[0] == grids[1] == pytest.approx([0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3])
    assert not any(choice.at_edge for choice in found.values())


def test_a_best_that_stays_at_the_edge_is_told() -> None:
    found = choose({"any": peaked(1e6)}, (0.01, 0.1))
    assert found["any"].rate == pytest.approx(100)  # three times wider
    assert found["any"].at_edge
    assert choose({"any": peaked(1e6)}, (0.01, 0.1), widen=False)["any"].rate == 0.1
    assert not choose({"any": peaked(1e6)}, (0.01,))["any"].at_edge  # a single rate is no choice


def test_a_rate_that_diverged_with_one_seed_is_no_choice() -> None:
    tried = {0.1: (0.9, math.nan), 0.01: (0.5, 0.5), 0.001: (0.5, 0.5)}
    assert comparison.best_rate(tried) == 0.001
    with pytest.raises(ValueError, match=r"diverged at every rate tried: 0\.1"):
        comparison.best_rate({0.1: (math.nan,)})


def test_a_gap_within_the_larger_spread_is_a_tie() -> None:
    assert metrics.is_tie([0.5, 0.6, 0.7], [0.69, 0.70, 0.70])
    assert not metrics.is_tie([0.5, 0.51, 0.52], [0.60, 0.61, 0.62])


# --- pruning -------------------------------------------------------------------------------------------------


def test_pruning_stops_where_the_mean_score_falls_and_shows_what_is_saved() -> None:
    scores = {0: (0.5, 0.7), 1: (0.6, 0.8), 2: (0.9, 0.3), 3: (1.0, 1.0)}
    train = MadeUp(lambda config: scores[config.prune_depth][config.seed])
    found = prune.search(BASE, train, seeds=(0, 1))
    assert found["best_depth"] == 1
    assert [row["depth"] for row in found["depths"]] == [0, 1, 2]
    assert found["depths"][1]["scores"] == [0.6, 0.8]
    flops = [row["flops"] for row in found["depths"]]
    assert flops[0] > flops[1] > flops[2] > 0
    text = study_report.text(pruning_report.report(found))
    assert "best depth: 1 (the score fell at 2); train with --prune_depth=1" in text
    assert "70.00 ± 14.14" in text
    with pytest.raises(UserError, match="--max_depth=12 is out of range; give at most 11"):
        prune.search(BASE, train, seeds=(0,), max_depth=12)


# --- the study of AutoLR -------------------------------------------------------------------------------------


def formula(config: FinetuneConfig) -> float:
    best = 0.01 if config.method == "autolr" else 0.03
    value = peaked(best)(config.learning_rate) + 0.02 * (config.prune_depth == 1)
    return value - 0.03 * (config.prune_depth > 1) - 0.05 * (config.layer_decay != 1)


@pytest.mark.parametrize("protocol", ["classification", "retrieval"])
def test_the_study_chooses_on_validation_and_reports_with_other_seeds(protocol: str) -> None:
    train = MadeUp(formula)
    base = dataclasses.replace(BASE, protocol=protocol)
    result = autolr.run(
        base,
        train,
        Protocol((0.003, 0.01, 0.03), (0,), (4, 5)),
        compare=True,
        schedules=True,
        max_depth=None,
    )
    assert result["pruning"]["best_depth"] == 1
    found = {entry["name"]: entry for entry in result["entries"]}
    assert list(found)[:4] == ["single rate", "layer decay 0.75", "discriminative 1/100", "AutoLR"]
    assert {"AutoLR, pruned 1", "SGDR, 8 resets, pruned 1", "step decay, pruned 1"} <= set(found)
    assert found["AutoLR"]["rate"] == 0.01
    assert found["single rate"]["rate"] == 0.03
    assert found["AutoLR"]["passes"] == [5, 5]
    seeds = {name: config.seed for name, config in train.configs.items()}
    assert {seed for name, seed in seeds.items() if name.startswith("report")} == {4, 5}
    assert {seed for name, seed in seeds.items() if not name.startswith("report")} == {0}
    # Everything tried is told, and how many there were.
    per_entry = {name: len(entry["tried"]) for name, entry in found.items()}
    assert set(per_entry.values()) == {4}  # widened to 0.1
    assert result["configurations"] == sum(per_entry.values()) + 3
    reported = [config for name, config in train.configs.items() if name.startswith("report")]
    if protocol == "retrieval":
        assert {(c.validation_fraction, c.select_on) for c in reported} == {(0.0, "last")}
    else:
        assert {c.select_on for c in reported} == {"validation"}
    text = study_report.text(autolr_report.report(result))
    assert "best" in text
    assert f"{result['configurations']} configurations tried" in text


def test_without_compare_it_is_the_papers_ablation() -> None:
    assert [e.name for e in autolr.entries(2, compare=False, schedules=False)] == [
        "single rate",
        "single rate, pruned 2",
        "AutoLR, pruned 2",
    ]
    assert [e.name for e in autolr.entries(0, compare=False, schedules=False)] == ["single rate", "AutoLR"]


def test_a_method_that_diverges_everywhere_is_an_error_that_names_the_rates() -> None:
    train = MadeUp(lambda config: math.nan)
    with pytest.raises(UserError, match=r"diverged at every rate tried: 0\.1; give lower --rates"):
        autolr.run(BASE, train, Protocol((0.1,), (0,), (0,)), compare=False, schedules=False, max_depth=0)


def test_a_reporting_seed_that_diverges_is_told_and_costs_no_other_result() -> None:
    train = MadeUp(lambda config: math.nan if config.seed == 5 else 0.5)
    protocol = Protocol((0.1,), (0,), (4, 5, 6))
    result = autolr.run(BASE, train, protocol, compare=False, schedules=False, max_depth=0)
    assert [entry["diverged"] for entry in result["entries"]] == [1, 1]
    assert all(len(entry["test"]["test_accuracy"]) == 2 for entry in result["entries"])
    assert "(1 diverged)" in study_report.text(autolr_report.report(result))


# --- α and β -------------------------------------------------------------------------------------------------


def test_pairs_whose_targets_would_descend_are_not_trained() -> None:
    train = MadeUp(lambda config: 0.5 + 0.1 * config.alpha)
    rows = [
        {"epoch": "1", "finite": "0", "variation/block_01": "nan", "variation/block_02": "nan"},
        {"epoch": "1", "finite": "1", "variation/block_01": "1.0", "variation/block_02": "5.0"},
    ]
    base = dataclasses.replace(BASE, method="autolr")
    found = alpha_beta.grid(base, train, alphas=(1.0, 2.0), betas=(0.2, 0.6), passes_of=lambda name: rows)
    assert found["unavailable"] == [[True, False], [True, False]]
    assert set(train.configs) == {"alpha1-beta0.2", "alpha1-beta0.6", "alpha2-beta0.6"}
    assert found["scores"][1] == [None, pytest.approx(0.7)]
    text = study_report.text(alpha_beta_report.report(found))
    assert text.count("unavailable") == 2
    assert "70.00" in text
