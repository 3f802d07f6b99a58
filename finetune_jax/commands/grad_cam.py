r"""Show where a run looks in photos: Grad-CAM at its blocks, over runs or trials.

    finetune-jax grad_cam --runs=runs/photos photo.jpg more/photos
    finetune-jax grad_cam --runs=runs/whole,runs/pruned photo.jpg
    finetune-jax grad_cam --runs=runs/autolr --trials_of_epoch=1 photo.jpg

One run: a column per block. Several: a column per run, at its last block. With --trials_of_epoch: a column per
trial, and a figure per block.
"""

import sys
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.errors import UserError

_MOST_IMAGES = 16

flags.DEFINE_list("runs", None, "Run directories.", required=True)
flags.DEFINE_list("blocks", [], "Blocks to show; empty is the first, the last and two in between.")
flags.DEFINE_integer(
    "trials_of_epoch", 0, "Epoch whose trials are compared (needs --keep_trials).", lower_bound=0
)
flags.DEFINE_string(
    "class", "", "Class whose places are shown; empty is the one that each image is taken for."
)
flags.DEFINE_string("output", "", "Folder of the figures; empty is the first run's directory.")


def main(arguments: list[str]) -> int:
    """Write the figures."""
    values = flags.FLAGS
    if not arguments:
        raise UserError("name images or folders, e.g. finetune-jax grad_cam --runs=runs/photos photo.jpg")
    runs = [Path(run).expanduser() for run in values.runs]
    if len(runs) > 1 and (values.blocks or values.trials_of_epoch):
        raise UserError("--blocks and --trials_of_epoch are for a single run; give one of --runs")
    class_name = values["class"].value or None
    if class_name and values.trials_of_epoch:
        raise UserError(
            "--class has no meaning with --trials_of_epoch, whose classes change from trial to trial"
        )
    command_line.start_jax()
    from finetune_jax.data import folder
    from finetune_jax.runs import explain

    paths = folder.listed_images([Path(argument) for argument in arguments])
    if len(paths) > _MOST_IMAGES:
        print(f"{len(paths)} images; the first {_MOST_IMAGES} are shown", file=sys.stderr)
        paths = paths[:_MOST_IMAGES]
    if values.trials_of_epoch:
        epoch = values.trials_of_epoch
        figures = {
            f"grad_cam-epoch_{epoch:02d}-{name}.png": png
            for name, png in explain.of_trials(runs[0], paths, epoch, values.blocks).items()
        }
    elif len(runs) > 1:
        figures = {"grad_cam-runs.png": explain.of_runs(runs, paths, class_name)}
    else:
        figures = {"grad_cam.png": explain.of_blocks(runs[0], paths, values.blocks, class_name)}
    output = Path(values.output).expanduser() if values.output else runs[0]
    for name, png in figures.items():
        try:
            output.mkdir(parents=True, exist_ok=True)
            (output / name).write_bytes(png)
        except OSError as error:
            raise UserError(f"--output={output} cannot be written: {error.strerror}") from error
        print(output / name)
    return 0
