r"""Search learning rate, momentum and weight decay by a grid or TPE, on several workers.

    finetune-jax hpo --dataset=folder:photos --dedup --workdir=runs/sweep
    finetune-jax hpo --search=tpe --trials=30 --learning_rates=0.0001,0.1 --momenta=0.9 --workdir=runs/tpe

The default grid is that of "Rethinking the Hyperparameters". The same command, started again or in several places
at once, goes on with the same study: each worker pulls its next trial from it. Workers on several machines share
the --workdir, or name a database with --storage. What a worker that was killed had begun is taken up by another.
Each trial is an ordinary run directory below --workdir. See docs/methods/sweeps.md.
"""

import dataclasses
import functools
import os
import sys

from absl import flags

from finetune_jax.algorithms import hyperparameters
from finetune_jax.commands import command_line, study_output
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

_PAPER = hyperparameters.FINE_TUNING

command_line.define_flags(FinetuneConfig)
flags.DEFINE_enum(
    "search",
    "grid",
    ["grid", "tpe"],
    "grid tries every combination; tpe lets a tree-structured Parzen estimator choose.",
)
flags.DEFINE_list(
    "learning_rates",
    [str(v) for v in _PAPER.learning_rates],
    "Learning rates η to try; tpe draws between the smallest and the largest.",
)
flags.DEFINE_list(
    "effective_learning_rates",
    [],
    "Effective learning rates η′ = η / (1 − m) to try, in place of --learning_rates: η then follows the momentum.",
)
flags.DEFINE_list("momenta", [str(v) for v in _PAPER.momenta], "Momenta m to try, each below 1.")
flags.DEFINE_list("weight_decays", [str(v) for v in _PAPER.weight_decays], "Weight decays λ to try.")
flags.DEFINE_list("seeds", ["0"], "Seeds with which every point is trained; its score is their mean.")
flags.DEFINE_bool("dedup", False, "Train only one of several points with the same η/(1 − m) and λ/η.")
flags.DEFINE_integer("trials", 50, "Number of points that --search=tpe tries, all workers together.")
flags.DEFINE_integer("search_seed", 0, "Seed from which --search=tpe draws its points.")
flags.DEFINE_enum(
    "pruner",
    "auto",
    ["auto", "none", "median"],
    "Stop trials that do worse than the median of those before; auto is median with tpe and none with grid.",
)
flags.DEFINE_string(
    "storage",
    "",
    "File or database that keeps the study: path of a journal file, also on a shared disk, or URL of a database such "
    "as postgresql://user:password@host/name; empty is study.journal in --workdir.",
)
flags.DEFINE_string("study", "hpo", "Name of the study within --storage.")
flags.DEFINE_integer(
    "parallel_trials",
    1,
    "Number of trials that a worker takes at once and trains in one compiled program.",
    lower_bound=1,
)
study_output.define_flags()


def main() -> int:
    """Work on the study until it is done, print and write its results."""
    values = flags.FLAGS
    lists = {
        "learning_rate": "learning_rates",
        "effective_learning_rate": "effective_learning_rates",
        "momentum": "momenta",
        "weight_decay": "weight_decays",
        "effective_weight_decay": "weight_decays",
        "seed": "seeds",
    }
    for name, instead in lists.items():
        why = f"is not for this study, which sets it for every run itself; give --{instead}"
        command_line.refuse((name,), why)
    if values["effective_learning_rates"].present and values["learning_rates"].present:
        raise UserError(
            "--learning_rates and --effective_learning_rates say the same in two units; give one of them"
        )
    if values.search == "grid":
        for name in ("trials", "search_seed"):
            if values[name].present:
                raise UserError(f"--{name} is for --search=tpe; the grid tries all of its points")
    if values.coordinator:
        raise UserError(
            "--coordinator is not for this study; start a worker on each machine, with the same --workdir"
        )
    config = command_line.read_flags(FinetuneConfig, base=recipe(values.method))
    from finetune_jax.studies.sweeps.search import Search

    sgd = config.optimizer == "sgd"
    pruner_by_search = {"grid": "none", "tpe": "median"}
    search = Search(
        kind=values.search,
        learning_rates=command_line.numbers("learning_rates", float),
        momenta=command_line.numbers("momenta", float)
        if sgd or values["momenta"].present
        else (config.momentum,),
        weight_decays=command_line.numbers("weight_decays", float),
        dedup=values.dedup,
        trials=values.trials,
        seed=values.search_seed,
        pruner=pruner_by_search[values.search] if values.pruner == "auto" else values.pruner,
        effective_learning_rates=command_line.numbers("effective_learning_rates", float)
        if values["effective_learning_rates"].present
        else (),
    )
    search.check(config)
    seeds = command_line.numbers("seeds", int)
    runs = command_line.start_study(config.workdir, "hpo", shared=True)
    from finetune_jax.reports import sweep as sweep_report
    from finetune_jax.runs import recorded_data
    from finetune_jax.studies.sweeps import sweep as hpo
    from finetune_jax.studies.sweeps.trial_queue import TrialQueue

    base = dataclasses.replace(config, workdir="")
    queue = TrialQueue(
        values.storage or os.path.join(runs.root, "study.journal"),
        values.study,
        search,
        hpo.settings(base, search, seeds),
        warmup=config.epochs // 4,
    )
    digest = recorded_data.digest_of(base)
    if digest is not None:
        queue.agree_on_data(digest)
    at_once = values.parallel_trials
    runs.announces_runs = True
    train = hpo.one_by_one(runs) if at_once == 1 else hpo.together(runs)
    report_progress = functools.partial(print, file=sys.stderr)
    records = hpo.run(base, search, seeds, queue, train, at_once=at_once, say=report_progress)
    result = hpo.result(base, search, seeds, records, runs.summary)
    study_output.finish(sweep_report.report(result, runs.root), runs, "hpo")
    return 0 if result["best"] else 1
