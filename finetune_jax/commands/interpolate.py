r"""Average the weights of several runs, or of a run and those it started from.

    finetune-jax interpolate --run=runs/photos --alphas=0,0.25,0.5,0.75,1
    finetune-jax interpolate --run=runs/photos --datasets=folder:sketches --output=runs/photos-between
    finetune-jax interpolate --run=runs/photos --projection --output=runs/photos-near
    finetune-jax interpolate --soup=runs/photos --output=runs/photos-soup
    finetune-jax interpolate --soup=runs/photos-1,runs/photos-2,runs/photos-3 --output=runs/soup

At alpha 1 the network is the run's, at 0 the one it started from, with the run's head. Statistics of norms are
estimated anew from training images; the validation images of the run choose, by the score of its task (accuracy,
mean average precision, quadratic kappa, R² or Recall@1). Results go to interpolation.json and
interpolation/report.html in the run directory, and to --output, which prediction, evaluation and export take like a
run. With --projection each array of weights of a classifier goes back towards the start until it is within a radius
that is learned from the validation images (TPGM, Tian et al. 2023); the results are in projection.json.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.errors import UserError
from finetune_jax.files.whole_file import replace_whole

flags.DEFINE_string("run", "", "Run directory of the network at alpha 1.")
flags.DEFINE_list(
    "alphas", [f"{tenth / 10:g}" for tenth in range(11)], "Shares of the run's weights, from 0 to 1."
)
flags.DEFINE_string(
    "start",
    "",
    "Run directory of the network at alpha 0; empty is the run's --pretrained with the run's head.",
)
flags.DEFINE_list(
    "datasets", [], "More data sets with the run's classes, on whose test images to measure too."
)
flags.DEFINE_list(
    "soup",
    [],
    "Run directories to make a greedy soup of instead, all of one network; of a single one the epochs that "
    "--keep_epochs kept.",
)
flags.DEFINE_bool(
    "projection", False, "Learn from validation images how far each array may be from its start."
)
flags.DEFINE_integer("projection_steps", 200, "Steps of --projection, of 64 images each.", lower_bound=1)
flags.DEFINE_float(
    "projection_rate",
    0.01,
    "Adam's rate of the radii of --projection, a share of the largest.",
    lower_bound=0.0,
)
flags.DEFINE_string("output", "", "Directory for the network that was chosen; empty keeps none.")


def main() -> int:
    """Average, print the scores, keep what was chosen."""
    values = flags.FLAGS
    if bool(values.run) == bool(values.soup):
        raise UserError("give --run, or --soup with several run directories")
    output = Path(values.output).expanduser() if values.output else None
    if output is not None and output.exists() and any(output.iterdir()):
        raise UserError(f"--output={output} holds something already; name a new directory")
    if values.projection and values.soup:
        raise UserError("--projection is of one run; leave out --soup")
    if values.soup:
        return _soup([Path(run).expanduser() for run in values.soup], output)
    run = Path(values.run).expanduser()
    start = Path(values.start).expanduser() if values.start else None
    if values.projection:
        return _project(run, start, output)
    alphas = command_line.numbers("alphas", float)
    if alphas[-1] > 1:
        raise UserError(f"--alphas={','.join(values.alphas)}: give shares from 0 to 1")
    replicas = command_line.start_jax()
    from finetune_jax.runs import interpolate

    curve = interpolate.interpolate(run, alphas, replicas, start=start, others=values.datasets, output=output)
    if replicas.is_primary:
        print(f"scores: {curve.score_name}")
        print("| alpha | " + " | ".join(curve.scores) + " |")
        print("|---" * (len(curve.scores) + 1) + "|")
        for place, alpha in enumerate(curve.alphas):
            cells = [_shown(scores[place], curve.score_name) for scores in curve.scores.values()]
            chosen = " (chosen)" if place == curve.chosen else ""
            print(f"| {alpha:g}{chosen} | " + " | ".join(cells) + " |")
        _keep(run / "interpolation.json", curve.to_json())
        _draw(run / "interpolation", curve.to_json())
    return 0


def _project(run: Path, start: Path | None, output: Path | None) -> int:
    values = flags.FLAGS
    if values.projection_rate == 0:
        raise UserError("--projection_rate=0 learns no radius; give a number above 0")
    if values["alphas"].present:
        raise UserError(
            "--alphas contradicts --projection, which learns a share for each array; give one of them"
        )
    replicas = command_line.start_jax()
    from finetune_jax.runs import interpolate

    result = interpolate.project(
        run,
        replicas,
        steps=values.projection_steps,
        rate=values.projection_rate,
        start=start,
        others=values.datasets,
        output=output,
    )
    if replicas.is_primary:
        print("| network | " + " | ".join(result.scores["run"]) + " |")
        print("|---" * (len(result.scores["run"]) + 1) + "|")
        for network, scores in result.scores.items():
            print(f"| {network} | " + " | ".join(f"{100 * score:.1f} %" for score in scores.values()) + " |")
        print(
            "kept of the movement: " + ", ".join(f"{part} {share:.2f}" for part, share in result.kept.items())
        )
        _keep(run / "projection.json", result.to_json())
    return 0


def _soup(runs: list[Path], output: Path | None) -> int:
    replicas = command_line.start_jax()
    from finetune_jax.runs import interpolate

    soup = interpolate.soup(runs, replicas, others=flags.FLAGS.datasets, output=output)
    if replicas.is_primary:
        several = len(runs) > 1
        names = [str(runs[number]) if several else f"number {number + 1}" for number in soup.chosen]
        print(f"soup of {len(names)} {'runs' if several else 'of the best epochs'}: {', '.join(names)}")
        of_sets = [
            f"{name} {soup.score_name} {_shown(score, soup.score_name)}"
            for name, score in soup.scores.items()
        ]
        print(", ".join(of_sets))
        if output is not None:
            chosen = (
                {"runs": names} if several else {"run": str(runs[0]), "epochs_by_score": list(soup.chosen)}
            )
            content = {**chosen, "scores": dict(soup.scores), f"validation_{soup.score_name}": soup.score}
            _keep(output / "interpolation.json", content)
    return 0


def _draw(folder: Path, curve: Mapping[str, Any]) -> None:
    from finetune_jax.reports import interpolation, study_report

    command = f"finetune-jax interpolate {shlex.join(sys.argv[1:])}"
    files = study_report.files(interpolation.report(curve), command=command)
    try:
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            replace_whole(folder / name, content.encode() if isinstance(content, str) else content)
        print(f"report: {folder / 'report.html'}", file=sys.stderr)
    except OSError as error:
        print(f"no report in {folder}: {error.strerror}", file=sys.stderr)


def _shown(score: float, name: str) -> str:
    """Kappa and R² are no shares."""
    from finetune_jax.reports.tables import is_share

    return f"{100 * score:.1f} %" if is_share(name) else f"{score:.4f}"


def _keep(file: Path, content: dict[str, object]) -> None:
    try:
        file.write_text(json.dumps(content, indent=2) + "\n")
        print(f"written to {file}", file=sys.stderr)
    except OSError as error:
        print(f"not written to {file}: {error.strerror}", file=sys.stderr)
