r"""Compare data sets with the source of the weights, and recommend learning rates.

    finetune-jax similarity --targets=digits,folder:photos
    finetune-jax similarity --pretrained=resnet101.pth --source=folder:imagenet --targets=tfds:cars196 \
        --save_source=imagenet-resnet101.npz
    finetune-jax similarity --pretrained=resnet101.pth --source=imagenet-resnet101.npz --targets=folder:photos

Class means of features, the exact Earth Mover's Distance between them, and the nearest data set of Table 4 of
"Rethinking the Hyperparameters for Fine-tuning", whose best effective learning rate says where to search. The bundled
network brings the class means of its source. finetune-jax finetune --learning_rate=auto does the same before it trains.
"""

import os

from finetune_jax.commands import command_line, study_output
from finetune_jax.config.settings import SimilarityConfig
from finetune_jax.errors import UserError

command_line.define_flags(
    SimilarityConfig,
    without=(
        "dataset",
        "protocol",
        "ks",
        "test_resize",
        "augmentation",
        "resize_mode",
        "stored_size",
        "color_jitter",
        "hue_jitter",
        "train_on_validation",
        "norm_momentum",
        "sync_batch_norm",
        "frozen_norm",
        "from_probe",
    ),
)
study_output.define_flags()


def main() -> int:
    """Compare, print and write the table."""
    config = command_line.read_flags(SimilarityConfig)
    if not config.targets and not config.save_source:
        raise UserError("--targets is empty; name the data sets to compare, each as in --dataset")
    # Not after hours of looking at images.
    if config.save_source and not (
        config.save_source.endswith(".npz")
        and os.path.isdir(os.path.dirname(os.path.expanduser(config.save_source)) or ".")
    ):
        raise UserError(
            f"--save_source={config.save_source} cannot be written: give a name that ends in .npz, in a directory that "
            "exists"
        )
    runs = command_line.start_study(config.workdir, "similarity")
    from finetune_jax.reports import similarity as similarity_report
    from finetune_jax.runs import domains, references, start
    from finetune_jax.studies import similarity

    origin = start.load_origin(config)
    known = references.load(config.reference, origin.network.architecture)
    prober = domains.Prober(config, origin, runs.replicas, pretrained=config.pretrained)
    source = prober.source(config.source)
    if config.save_source and runs.is_primary:
        prober.write(source, config.save_source)
    if not config.targets:
        return 0
    size = source.image_size
    targets = [prober.data_set(name, flag="targets", image_size=size) for name in config.targets]
    result = similarity.compare(source, targets, known)
    study_output.finish(similarity_report.report(result), runs, "similarity")
    return 0
