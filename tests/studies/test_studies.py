"""Studies: what is tried, what is chosen, what is reported; a made-up function stands for training."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from photos import write_photos

from finetune_jax import data as datasets
from finetune_jax.algorithms import metrics
from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.devices.replicas import Replicas
from finetune_jax.errors import Diverged, UserError
from finetune_jax.reports import alpha_beta as alpha_beta_report
from finetune_jax.reports import autolr as autolr_report
from finetune_jax.reports import pruning as pruning_report
from finetune_jax.reports import published, reproduction
from finetune_jax.reports.published import autolr as published_autolr
from finetune_jax.reports.published import hyperparameters as published_hyperparameters
from finetune_jax.runs import finetune
from finetune_jax.studies import alpha_beta, autolr, comparison, gamma, prune, reproduce
from finetune_jax.studies.comparison import Entry, Protocol
from finetune_jax.studies.runs import Runs

BASE = FinetuneConfig(dataset="digits", epochs=2)


class MadeUp:
    """Training with scores from a formula; notes the configs."""

    def __init__(self, formula: Any) -> None:
        self.formula = formula
        self.configs: dict[str, FinetuneConfig] = {}

    def __call__(self, config: FinetuneConfig, name: str) -> dict[str, Any]:
        assert name not in self.configs or self.configs[name] == config, "one name for two configs"
        validate(config)
        self.configs[name] = config
        score = self.formula(config)
        if math.isnan(score):
            raise Diverged("too fast")
        metric = "accuracy" if config.protocol == "classification" else "recall_at_1"
        return {
            "score": f"test_{metric}",
            f"validation_{metric}": score,
            f"test_{metric}": score - 0.01 * config.seed,
            "test_balanced_accuracy": score - 0.1,
            "classes": 10,
            "parameters": 1000 - 10 * config.prune_depth,
            "parameters_trained": 900,
            "epochs_trained": config.epochs,
            "passes": config.epochs + 3 * (config.method == "autolr"),
            "seconds": 10.0,
            "seconds_per_epoch": 5.0 - config.prune_depth,
        }


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
    text = pruning_report.text(found)
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
    text = autolr_report.text(result)
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
    assert "(1 diverged)" in autolr_report.text(result)


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
    text = alpha_beta_report.text(found)
    assert text.count("unavailable") == 2
    assert "70.00" in text


# --- published tables ----------------------------------------------------------------------------------------


def test_the_tables_are_as_printed() -> None:
    tables = published_autolr.TABLES
    assert list(tables) == ["1", "2", "3", "4", "5", "supplement-2", "supplement-3", "supplement-4"]
    for name, table in tables.items():
        assert set(table.metrics) <= set(published.DATASETS), name
        for row in table.rows:
            for data, numbers in row.numbers.items():
                assert len(numbers) == len(table.metrics[data]), (name, row.name)
                known = [number for number in numbers if number is not None]
                assert known == sorted(known), f"{name} {row.name} {data}: Recall@K rises with K"
    assert tables["2"].rows[2].numbers["SOP"] == (84.24, 93.47, 97.15, 98.92)
    assert tables["supplement-4"].rows[17].numbers["CUB-200"] == (67.37, 78.93, 86.63, 92.45)
    assert len(tables["supplement-4"].rows) == 37
    # γ is the ratio of the two printed norms.
    first, second = (published_autolr.GAMMA_TABLE[f"norm, {which} run"] for which in ("first", "second"))
    np.testing.assert_allclose(np.divide(second, first), published_autolr.GAMMA_TABLE["gamma"], atol=0.0051)


@pytest.mark.parametrize("name", list(published_autolr.TABLES))
def test_every_row_that_has_settings_is_a_valid_config_as_the_paper_has_it(name: str) -> None:
    table = published_autolr.TABLES[name]
    for row in table.rows:
        config = reproduce.configured(table, row, FinetuneConfig(dataset="digits"), given=("dataset",))
        validate(config)
        assert config.batch_size == 40
        assert config.epochs == (40 if name == "supplement-3" else 50)
    assert reproduce.configured(table, table.rows[0], BASE, given=("epochs",)).epochs == 2
    # What the user gives stays, also another protocol than the table's.
    other = "classification" if config.protocol == "retrieval" else "retrieval"
    base = FinetuneConfig(dataset="digits", protocol=other)
    changed = reproduce.configured(table, table.rows[0], base, given=("dataset", "protocol"))
    assert changed.protocol == other
    if name == "supplement-2":  # its loss has no classifier, which is said in one sentence
        with pytest.raises(UserError, match="--loss=proxy_anchor learns embeddings"):
            validate(changed)
    else:
        validate(changed)
    base = FinetuneConfig(dataset="digits", ks=(1, 3))
    if config.protocol == "retrieval":
        assert reproduce.configured(table, table.rows[0], base, given=("ks",)).ks == (1, 3)
    if "SOP" in table.metrics:
        assert set(config.ks) >= {1, 10, 100, 1000}


def test_rows_are_run_and_stand_beside_the_papers_numbers() -> None:
    table = published_autolr.TABLES["1"]
    train = MadeUp(lambda config: math.nan if config.rate_factors else 0.5 + 0.1 * config.prune_depth)
    rows = reproduce.rows_of(table, BASE, train, given=("dataset", "epochs"), seeds=(0, 1))
    assert len(train.configs) == 4 * 2 + 2  # a row that diverges with its first seed is not tried again
    text = reproduction.text("autolr/1", table, "digits", rows)
    assert "orientation only" in text
    assert "59.50 ± 0.71" in text
    assert "66.95" in text
    assert text.count("diverged") >= 2
    assert "not run" in text
    assert table.data_of("tfds:caltech_birds2011") == "CUB-200"
    same = reproduction.text("autolr/1", table, "tfds:caltech_birds2011", rows, "CUB-200")
    assert "orientation" not in same


def column(name: str, row: int) -> dict[str, float | None]:
    table = published_hyperparameters.TABLES[name]
    return {data: numbers[0] for data, numbers in table.rows[row - 1].numbers.items()}


def test_the_tables_of_errors_agree_with_each_other_and_with_figure_4() -> None:
    assert list(published_hyperparameters.TABLES) == ["2", "3", "5", "6", "8"]
    for name, table in published_hyperparameters.TABLES.items():
        assert set(table.metrics) <= set(published.DATASETS), name
        assert all(set(row.numbers) <= set(table.metrics) for row in table.rows), name
    # One setting, printed in three tables.
    assert column("2", 1) == column("6", 1)
    assert column("2", 1) | {"Caltech": 13.42} == column("8", 1)
    assert column("2", 5) | {"Cars": 11.06} == column("6", 2)
    for row, of_table_8 in ((1, 2), (3, 3)):
        assert column("3", row).items() <= column("8", of_table_8).items()
    best = {"Dogs": 9.83, "Caltech": 11.61, "Indoor": 20.54, "Birds": 16.34, "Cars": 7.61, "Aircrafts": 12.33}
    assert column("8", 5) == best | {"Flowers": 2.91}
    # Disabling momentum helps where the data are like ImageNet (section 3.2).
    with_momentum, without = column("2", 1), column("2", 5)
    assert {data for data in without if without[data] < with_momentum[data]} == {
        "Dogs",
        "Caltech",
        "Indoor",
        "Birds",
    }
    # 9,000 steps of 64 images.
    table = published_hyperparameters.TABLES["5"]
    for data, images in published_hyperparameters.TRAINING_IMAGES.items():
        epochs, (drop,) = (table.of_data[data][name] for name in ("epochs", "drop_epochs"))
        assert abs(epochs * images / 64 - 9000) < images / 64
        assert abs(drop * images / 64 - 6000) < images / 64


@pytest.mark.parametrize("name", list(published_hyperparameters.TABLES))
def test_every_row_of_the_hyperparameter_tables_is_a_valid_config(name: str) -> None:
    table = published_hyperparameters.TABLES[name]
    for row in table.rows:
        if row.settings is None:
            continue
        for data in table.metrics:
            config = reproduce.configured(table, row, FinetuneConfig(), ("dataset",), data)
            validate(config)
            for values in row.grid.values():
                assert len(set(values)) == len(values)
            assert config.batch_size == (64 if name == "5" else 256)
            assert config.train_on_validation == (data == "Flowers")
            if name != "5":
                assert config.epochs == (600 if config.method == "scratch" else 300)
                assert config.drop_epochs == ((400, 550) if config.method == "scratch" else (150, 250))
    sizes = [math.prod(map(len, row.grid.values())) for row in table.rows]
    assert sizes == {"5": [1, 1, 20, 20], "8": [1, 1, 1, 1, 120, 120, 120, 6]}.get(
        name, [1] * len(table.rows)
    )


def test_rows_of_other_sources_wait_for_their_weights_and_errors_are_compared() -> None:
    table = published_hyperparameters.TABLES["3"]
    train = MadeUp(lambda config: 0.7 + 0.1 * config.momentum)
    base = dataclasses.replace(BASE, augmentation="none")
    more = {"given": ("dataset", "epochs", "augmentation", "drop_epochs", "schedule"), "seeds": (0,)}
    rows = reproduce.rows_of(table, base, train, weights={"places365": "p.pth"}, data="Birds", **more)
    assert [row["run"] for row in rows] == [False, False, True, True]
    assert {config.pretrained for config in train.configs.values()} == {"p.pth"}
    text = reproduction.text("hyperparameters/3", table, "folder:birds", rows, "Birds")
    lines = text.splitlines()
    assert "test error, ours" in lines[2]
    assert lines[4].split()[:4] == ["iNat-2017,", "m", "0.9", "not"]
    assert lines[6].split()[:5] == ["Places-365,", "m", "0.9", "21.00", "27.72"]
    assert lines[7].split()[:5] == ["Places-365,", "m", "0", "30.00", "32.17"]


@pytest.mark.parametrize("validated", [True, False])
def test_a_row_that_was_searched_for_is_the_best_of_its_grid(validated: bool) -> None:
    table = published_hyperparameters.TABLES["5"]

    def formula(config: FinetuneConfig) -> float:
        if config.learning_rate == 0.02:
            return math.nan
        regularised = config.lambda_shared if config.method == "l2_sp" else config.weight_decay
        return (
            0.8
            - abs(math.log10(config.learning_rate / 0.005)) / 10
            - abs(math.log10(regularised / 0.01)) / 10
        )

    class Measured(MadeUp):
        def __call__(self, config: FinetuneConfig, name: str) -> dict[str, Any]:
            return super().__call__(config, name) | ({} if validated else {"validation_accuracy": None})

    train = Measured(formula)
    base = dataclasses.replace(BASE, augmentation="none")
    given = ("dataset", "epochs", "augmentation", "drop_epochs", "schedule")
    rows = reproduce.rows_of(table, base, train, given=given, seeds=(0,), only=(4,))
    assert [row["run"] for row in rows] == [False, False, False, True]
    assert len(train.configs) == 20
    assert rows[3]["chosen"] == {"learning_rate": 0.005, "lambda_shared": 0.01}
    assert rows[3]["chosen_by"] == ("validation_accuracy" if validated else "test_accuracy")
    assert sum(point["score"] is None for point in rows[3]["tried"]) == 4
    assert rows[3]["test"]["test_class_error"] == [pytest.approx(0.3)]
    text = reproduction.text("hyperparameters/5", table, "digits", rows)
    assert "L2-SP with HPO: learning_rate 0.005, lambda_shared 0.01, the best of 20 by" in text
    assert "13.86" in text


def test_an_effective_rate_of_the_user_goes_before_the_tables_rate() -> None:
    table = published_hyperparameters.TABLES["3"]
    base = dataclasses.replace(BASE, effective_learning_rate=0.3, augmentation="none")
    config = reproduce.configured(table, table.rows[0], base, ("effective_learning_rate", "augmentation"))
    assert config.effective_learning_rate == 0.3
    # A row that is made by its rate keeps it.
    table = published_hyperparameters.TABLES["2"]
    config = reproduce.configured(table, table.rows[2], base, ("effective_learning_rate", "augmentation"))
    assert (config.effective_learning_rate, config.learning_rate) == (None, 0.005)
    validate(config)


# --- real runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("photos")
    return FinetuneConfig(
        dataset=f"folder:{write_photos(root / 'photos')}",
        cache_dir=str(root / "cache"),
        image_size=16,
        batch_size=12,
        epochs=1,
        method="autolr",
        learning_rate=1e-3,
        prune_depth=8,
        keep_trials=True,
    )


@pytest.fixture(scope="module")
def study(photos: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, dict[str, Any]]:
    runs = Runs(tmp_path_factory.mktemp("study"), Replicas((jax.devices()[0],)))
    return runs, dict(runs(photos, "first"))


def test_a_finished_run_of_a_study_is_not_trained_again(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig, compilations: Any
) -> None:
    runs, summary = study
    assert runs(photos, "first") == summary
    assert compilations.count == 0


def test_a_run_that_diverged_is_remembered(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig, compilations: Any
) -> None:
    runs, _ = study
    wild = dataclasses.replace(photos, method="standard", keep_trials=False, learning_rate=1e30)
    with pytest.raises(Diverged, match="not finite"):
        runs(wild, "wild")
    before = compilations.count
    with pytest.raises(Diverged, match="not finite"):
        runs(wild, "wild")
    assert compilations.count == before


def test_gamma_is_the_ratio_of_variations_without_their_rates(study: tuple[Runs, dict[str, Any]]) -> None:
    runs, _ = study
    passes = runs.passes("first")
    assert passes[0]["accepted"] == "0"
    found = gamma.of_epoch(runs.root / "runs" / "first", 1)
    assert [row["block"] for row in found] == ["block_01", "block_02", "block_03", "block_04"]
    first, last = passes[0], passes[-1]
    for row in found:
        name = row["block"]
        expected = (float(last[f"variation/{name}"]) / float(last[f"rate/{name}"])) / (
            float(first[f"variation/{name}"]) / float(first[f"rate/{name}"])
        )
        assert row["gamma"] == pytest.approx(expected, rel=1e-5)
        assert 0.3 < row["gamma"] < 3
    with pytest.raises(UserError, match="epoch 2 has 0 trials"):
        gamma.of_epoch(runs.root / "runs" / "first", 2)


def test_grad_cam_of_a_run_its_blocks_and_its_trials(
    study: tuple[Runs, dict[str, Any]], photos: FinetuneConfig
) -> None:
    from finetune_jax.runs import explain

    run = study[0].root / "runs" / "first"
    paths = [Path(photos.dataset.removeprefix("folder:")) / name / "00.png" for name in ("leaf", "sky")]
    assert explain.of_blocks(run, paths)[:4] == b"\x89PNG"
    assert explain.of_runs([run, run], paths)[:4] == b"\x89PNG"
    found = explain.of_trials(run, paths, 1, ("block_02",))
    assert list(found) == ["block_02"]
    with pytest.raises(UserError, match=r"--blocks: .* has no block_09, only block_01 to block_04"):
        explain.of_blocks(run, paths, ("block_09",))
    with pytest.raises(UserError, match="has no epoch 7"):
        explain.of_trials(run, paths, 7)


def test_results_are_written_whole(study: tuple[Runs, dict[str, Any]]) -> None:
    runs, _ = study
    runs.write_files({"results.txt": "a table", "map.png": b"png"})
    assert (runs.root / "results.txt").read_text() == "a table"
    assert (runs.root / "map.png").read_bytes() == b"png"
    assert not [path for path in runs.root.iterdir() if path.name.endswith(".tmp")]


def test_retrieval_sources_of_a_study_hold_no_test_class_in_training() -> None:
    source = datasets.load_source(dataclasses.replace(BASE, protocol="retrieval"), silent=True)
    trained = {*source.splits["train"].labels.tolist(), *source.splits["validation"].labels.tolist()}
    assert trained.isdisjoint(source.splits["test"].labels.tolist())


def test_a_config_that_a_study_has_trained_before_is_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def run(config, replicas, after_epoch=None):
        trained.append(Path(config.workdir).relative_to(tmp_path / "runs").as_posix())
        directory = Path(config.workdir)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "passes.csv").write_text(f"step,epoch\n1,{config.seed}\n")
        return {"seed": config.seed}

    monkeypatch.setattr(finetune, "run", run)
    runs = Runs(tmp_path, Replicas((jax.devices()[0],)))
    assert runs(FinetuneConfig(seed=1), "select/a") == runs(FinetuneConfig(seed=1), "report/a") == {"seed": 1}
    runs(FinetuneConfig(seed=2), "report/b")
    # The directory's own run finds its summary there and does not train again.
    assert trained == ["select/a", "select/a", "report/b"]
    assert [runs.passes(name)[0]["epoch"] for name in ("select/a", "report/a", "report/b")] == ["1", "1", "2"]
