"""Published tables: as printed, valid as settings, and run beside the papers' numbers."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from made_up_study import BASE, MadeUp

from finetune_jax.config.checks import validate
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.reports import published, reproduction, study_report
from finetune_jax.reports.published import autolr as published_autolr
from finetune_jax.reports.published import hyperparameters as published_hyperparameters
from finetune_jax.studies import reproduce


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
        with pytest.raises(UserError, match="--loss=proxy_anchor is for --protocol=retrieval"):
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
    text = study_report.text(reproduction.report("autolr/1", table, "digits", rows))
    assert "orientation only" in text
    assert "59.50 ± 0.71" in text
    assert "66.95" in text
    assert text.count("diverged") >= 2
    assert "not run" in text
    assert table.data_of("tfds:caltech_birds2011") == "CUB-200"
    same = study_report.text(
        reproduction.report("autolr/1", table, "tfds:caltech_birds2011", rows, "CUB-200")
    )
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
    text = study_report.text(reproduction.report("hyperparameters/3", table, "folder:birds", rows, "Birds"))
    lines = text.splitlines()
    assert "test error in %, ours" in lines[2]
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
    text = study_report.text(reproduction.report("hyperparameters/5", table, "digits", rows))
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
