r"""Run SpotTune on the data sets of the Visual Decathlon, beside its paper's Table 3.

    tfds build visual_domain_decathlon/dtd --file_format=array_record      # once for each data set, with network
    finetune-jax decathlon --pretrained=resnet26.pth --workdir=runs/decathlon
    finetune-jax decathlon --pretrained=resnet26.pth --workdir=runs/decathlon --datasets=dtd,vgg-flowers

Without other flags it is the paper's recipe: ResNet-26, 72 pixels, crops of 64, 110 epochs, weight decay per data set.
Runs are ordinary run directories below --workdir; started again, with the same --datasets or others, none is trained
twice. Accuracy is that of the validation split: the test split has no public labels. The labels found for it go to
results.json, which the challenge's server takes.
"""

from pathlib import Path
from typing import Any

from absl import flags

from finetune_jax.algorithms import decathlon
from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

_SHARED = {**decathlon.settings(decathlon.DATASETS[0]), "dataset": "", "pretrained": ""}
command_line.define_flags(FinetuneConfig, **_SHARED)
flags.DEFINE_list(
    "datasets",
    list(decathlon.DATASETS),
    "Data sets of the Visual Decathlon to train on; runs that have begun go on.",
)
flags.DEFINE_string(
    "annotations",
    "",
    "Folder decathlon-1.0/annotations of the challenge's devkit, needed for results.json; by default the one that "
    "TFDS unpacked.",
)
study_output.define_flags()


def main() -> int:
    """Run the data sets, print and write the table and the file for the server."""
    values = flags.FLAGS
    if values["dataset"].present:
        raise UserError("--dataset is not for this study; name data sets of the Decathlon with --datasets")
    if not values.pretrained:
        raise UserError(
            "--pretrained is empty: give the weights of a ResNet-26 trained on ImageNet at 72 pixels, e.g. "
            "--pretrained=FILE with the names of the reference implementation, or --pretrained=resnet26_cifar10"
        )
    from finetune_jax.studies import decathlon as study

    base = command_line.read_flags(FinetuneConfig, base=study.recipe(decathlon.DATASETS[0], values.method))
    given = [name for name in decathlon.OF_DATASET if values[name].present]
    configs = study.configs(base, values.datasets, given=given)
    runs = command_line.start_study(base.workdir, "decathlon")
    from finetune_jax import data
    from finetune_jax.reports import decathlon as decathlon_report

    for name, config in configs.items():
        # All are opened before the first is trained on: one that is not prepared should not end a long study.
        if not runs.has_ended(name):
            data.load_source(config, silent=not runs.is_primary)
    result = study.run(configs, runs, progress=runs.progress)
    study_output.finish(decathlon_report.report(result), runs, "decathlon")
    if runs.is_primary:
        print(_submit(runs, values.annotations, base.data_dir))
    return 0


def _submit(runs: Any, annotations: str, data_dir: str) -> str:
    """Write ``results.json`` of all runs that labelled test images, and say so, or say why not."""
    from finetune_jax.data import decathlon_annotations
    from finetune_jax.files import readers
    from finetune_jax.reports.tables import json_text
    from finetune_jax.studies import decathlon as study

    predictions = {}
    for name in decathlon.DATASETS:
        file = runs.root / "runs" / name / "predictions-test.csv"
        rows = readers.table(file, "delete it and start the run again", whole_numbers=("label",))
        if rows:
            predictions[name] = {row["image"]: int(row["label"]) for row in rows}
    if not predictions:
        return "no results.json: no test images were labelled"
    folder = Path(annotations).expanduser() if annotations else decathlon_annotations.find(data_dir or None)
    if folder is None:
        return (
            "no results.json: the numbers of the test images are in the devkit of the challenge, which is not where "
            "TFDS unpacks it; give its folder decathlon-1.0/annotations with --annotations and start again"
        )
    known = {name: decathlon_annotations.read(folder, name) for name in predictions}
    results = study.submission(predictions, known)
    runs.write("results.json", json_text(results))
    return f"{len(results)} test images of {', '.join(predictions)} in {runs.root / 'results.json'}"
