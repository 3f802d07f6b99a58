r"""Run the rows of a paper's table on a data set, ours beside the paper's.

    finetune-jax reproduce                                            # the tables, and what data they need
    finetune-jax reproduce --table=autolr/2 --dataset=tfds:caltech_birds2011 --pretrained=resnet50.pth
    finetune-jax reproduce --table=autolr/2 --dataset=digits --epochs=5
    finetune-jax reproduce --table=spottune/2 --dataset=tfds:cars196 --pretrained=resnet50.pth
    finetune-jax reproduce --table=hyperparameters/2 --dataset=folder:aircraft --column=Aircrafts \
        --pretrained=resnet101v2.pth

Every row trains as the paper says, but for the flags that are given. Runs are ordinary run directories below
--workdir; started again, none is trained twice.
"""

import dataclasses

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError
from finetune_jax.reports import published
from finetune_jax.reports.published import autolr, hyperparameters, spottune

command_line.define_flags(FinetuneConfig, dataset="")
flags.DEFINE_string("table", "", "Table to reproduce, PAPER/NUMBER; empty lists all tables.")
flags.DEFINE_list("seeds", ["0"], "Seeds with which every row is trained.")
flags.DEFINE_list("rows", [], "Numbers of the rows to train, counted from 1; empty trains all of them.")
flags.DEFINE_string(
    "column", "", "Column of the table that --dataset is; empty recognises the data sets that TFDS has."
)
_SOURCES = {"inat2017": "iNaturalist 2017", "places365": "Places-365"}
for _source, _spoken in _SOURCES.items():
    flags.DEFINE_string(
        _source, "", f"Weights trained on {_spoken}, for rows that start from them; as --pretrained."
    )
study_output.define_flags()


def main() -> int:
    """Run the rows, print and write the table."""
    values = flags.FLAGS
    papers = {"autolr": autolr.TABLES, "hyperparameters": hyperparameters.TABLES, "spottune": spottune.TABLES}
    tables = {
        f"{paper}/{number}": table for paper, of_paper in papers.items() for number, table in of_paper.items()
    }
    if not values.table:
        print("\n".join(f"{name:<20} {table.title}" for name, table in tables.items()))
        print("\ndata sets:")
        print("\n".join(f"{name:<20} --dataset={source}" for name, source in published.DATASETS.items()))
        return 0
    if values.table not in tables:
        raise UserError(f"--table={values.table} is not known; choose one of {', '.join(tables)}")
    table = tables[values.table]
    if not values.dataset:
        raise UserError(_what_to_prepare(values.table, table))
    config = command_line.read_flags(FinetuneConfig)
    given = [field.name for field in dataclasses.fields(config) if values[field.name].present]
    seeds = command_line.numbers("seeds", int)
    data = values.column or table.data_of(config.dataset)
    if data and data not in table.metrics:
        raise UserError(f"--column={data} is not in the table; choose one of {', '.join(table.metrics)}")
    only = command_line.numbers("rows", int) if values.rows else ()
    if only and not 1 <= min(only) <= max(only) <= len(table.rows):
        raise UserError(f"--rows={','.join(values.rows)}: {values.table} has the rows 1 to {len(table.rows)}")
    weights = {source: str(values[source].value) for source in _SOURCES if values[source].value}
    for source in weights:
        if all(row.source != source for row in table.rows):
            raise UserError(f"--{source}: no row of {values.table} starts from these weights")
    runs = command_line.start_study(config.workdir, "reproduce-" + values.table.replace("/", "-"))
    from finetune_jax.reports import reproduction
    from finetune_jax.studies import reproduce

    rows = reproduce.rows_of(
        table,
        dataclasses.replace(config, workdir=""),
        runs,
        given=given,
        seeds=seeds,
        data=data,
        weights=weights,
        only=only,
        progress=runs.progress,
    )
    report = reproduction.report(values.table, table, config.dataset, rows, data)
    study_output.finish(report, runs, "reproduce")
    return 0


def _what_to_prepare(name: str, table: published.Table) -> str:
    known = "; ".join(f"{data}: {published.DATASETS[data]}" for data in table.metrics)
    named = [_SOURCES[source] for source in dict.fromkeys(row.source for row in table.rows) if source]
    others = f" Rows from {' and '.join(named)} need such weights too." if named else ""
    return (
        f"--table={name} needs --dataset, one of {known}; or any other, to run the same rows on it.\n"
        "TFDS data are prepared once (BUILD.md, Installation), folders hold one folder per class. "
        f"The paper's network is {table.network}: give its ImageNet weights with --pretrained=FILE.{others}"
    )
