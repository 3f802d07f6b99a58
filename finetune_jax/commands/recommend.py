r"""Find out which weights and which method suit your images, within a budget.

    finetune-jax recommend --dataset=folder:photos --budget=30m
    finetune-jax recommend --dataset=folder:photos --budget=2h --origins=all,resnet50.pth --images_per_class=5,10,20
    finetune-jax recommend --dataset=folder:photos --budget=10m --methods=feature_extractor,standard,lora

Probes the features of all weights at hand without training (ridge, k-NN, LogME), then tries methods by successive
halving on the validation images, as far as the budget goes, and ends with one table: scores with intervals, costs, what
is a tie, and the command that trains the winner in full. Of a tie the cheapest is recommended. Started again with the
same --workdir it goes on; with a larger budget it goes further. The flags of finetune are those of all methods.
"""

import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from finetune_jax.commands import command_line, study_output
from finetune_jax.config import durations, methods
from finetune_jax.config.choices import FIND
from finetune_jax.config.declaration import declared
from finetune_jax.config.invocation import as_started
from finetune_jax.config.named_recipes import NAMED_RECIPES, starting_config
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.errors import UserError

if TYPE_CHECKING:
    from finetune_jax.studies.recommend import Contestant, Work

_FIND_METHOD = "find"
_LAST = 3
_TRIED = (
    "feature_extractor",
    "last_k",
    "standard",
    _FIND_METHOD,
    "lora",
    "l2_sp",
    "autolr",
    "auto",
    "spottune",
)
_SET_HERE = (
    *(
        "pretrained",
        "method",
        "k",
        "protocol",
        "task",
        "images_per_class",
        "train_on_validation",
        "select_on",
    ),
    *("folds", "fold", "keep_head", "from_probe"),
)
"""Settings that each contestant has its own of, or that leave no validation images."""

command_line.define_flags(FinetuneConfig, without=_SET_HERE)
flags.DEFINE_string("budget", "30m", "Time that may be spent, such as 90s, 30m, 2h or 1h30m.")
flags.DEFINE_list(
    "origins",
    ["all"],
    "Weights to choose from, each as in --pretrained of finetune; all stands for those that are bundled or installed.",
)
flags.DEFINE_list(
    "methods",
    list(_TRIED),
    f"Methods to try, in this order: those of finetune, and {_FIND_METHOD} for standard with --learning_rate={FIND}.",
)
flags.DEFINE_list(
    "images_per_class",
    [],
    "Also draw the learning curve of the probe: its accuracy with so many training images per class, e.g. 5,10,20.",
)
flags.DEFINE_enum(
    "recipe", None, list(NAMED_RECIPES), "Set of settings for all methods; without it each has its own."
)
study_output.define_flags()

_RECORD = "record.json"


def main() -> int:
    """Probe, try, print and write the tables."""
    values = flags.FLAGS
    budget = durations.seconds_of(values.budget, "budget")
    counts = command_line.numbers("images_per_class", int) if values.images_per_class else ()
    if 0 in counts:
        raise UserError(f"--images_per_class={','.join(values.images_per_class)}: give numbers of at least 1")
    known = [name for name in methods.BY_NAME if name != "scratch"]
    for name in values.methods:
        if name not in (_FIND_METHOD, *known):
            raise UserError(
                f"--methods={name} is no method; give some of {', '.join((_FIND_METHOD, *known))}"
            )
    if not values.methods:
        raise UserError("--methods is empty; leave it out, or name some")
    base = _config("standard", {})
    _contestants(base.pretrained, "")  # flags that contradict a method are told now, and not after the probes
    runs = command_line.start_study(base.workdir, "recommend")
    if runs.replicas.process_count > 1:
        raise UserError("recommend is for one process, as the clocks of several decide differently")
    from finetune_jax.reports import recommend as report
    from finetune_jax.runs import probing
    from finetune_jax.studies import recommend as study

    record = _read(runs.root / _RECORD)
    study.check_asked(record, _asked(), runs.root)
    if not record.get("probes"):
        record["probe_images"] = probing.images_for(budget)
    work = _work(base, runs, budget, counts, record.get("probe_images", sys.maxsize))
    result = study.run(work, record)
    study_output.finish(report.report(result), runs, "recommend")
    return 0


def _work(base: FinetuneConfig, runs: Any, budget: float, counts: Sequence[int], probe_images: int) -> "Work":
    from finetune_jax import data as datasets
    from finetune_jax.reports.tables import json_text
    from finetune_jax.runs import probing
    from finetune_jax.studies.recommend import Work

    listed = flags.FLAGS.origins
    origins = [name for word in listed for name in (probing.at_hand() if word == "all" else (word,))]
    if not origins:
        raise UserError("--origins is empty; leave it out, or name weights")
    source = functools.cache(lambda: datasets.load_source(base))

    @functools.lru_cache(maxsize=1)
    def features(origin: str) -> probing.Features:
        if not len(source().splits["validation"]):
            raise UserError("the validation split is empty; give --validation_fraction")
        seen = probing.sample(source(), probe_images, base.seed)
        return probing.embed(dataclasses.replace(base, pretrained=origin), seen, runs.replicas)

    def probe(origin: str) -> dict[str, Any]:
        config = dataclasses.replace(base, pretrained=origin)
        judgement = probing.judge(features(origin), config, runs.replicas)
        return {**judgement, "images": len(source().splits["train"])}

    def measure(name: str, config: FinetuneConfig) -> dict[str, Any]:
        return probing.measure(runs.root / "runs" / name, config, source(), runs.replicas)

    return Work(
        dataset=base.dataset,
        origins=list(dict.fromkeys(origins)),
        must_fit="all" not in listed,
        probe=probe,
        curve=lambda origin: probing.curve(features(origin), counts, base.seed) if counts else {},
        contestants=_contestants,
        train=runs,
        measure=measure,
        save=lambda record: runs.write(_RECORD, json_text(record)),
        budget=budget,
        epochs=base.epochs,
        progress=runs.progress,
    )


def _contestants(origin: str, second: str) -> "list[Contestant]":
    """The methods on the best weights, and the first that moves weights on those that came second."""
    from finetune_jax.studies.recommend import Contestant

    values = flags.FLAGS
    has_rate = values["learning_rate"].present or values["effective_learning_rate"].present
    tried = [name for name in values.methods if not (name == _FIND_METHOD and has_rate)] or ["standard"]
    pairs = [(name, origin) for name in tried]
    moving = [name for name in tried if name == _FIND_METHOD or methods.BY_NAME[name].moves_weights]
    if second and moving:
        pairs.append(("standard" if "standard" in moving else moving[0], second))
    contestants = []
    for name, weights in pairs:
        settings: dict[str, Any] = {"pretrained": weights}
        method = name
        if name == _FIND_METHOD:
            method = "standard"
            settings["learning_rate"] = FIND
        elif methods.BY_NAME[name].counts_blocks:
            settings["k"] = _LAST
        config = _config(method, settings)
        label = name if weights == origin else f"{name} on {weights}"
        contestants.append(
            Contestant(label, dataclasses.replace(config, workdir=""), _command(method, settings, config))
        )
    return contestants


def _config(method: str, settings: Mapping[str, Any]) -> FinetuneConfig:
    """The config of a whole training by a method, with the flags that were typed; all have the same epochs."""
    values = flags.FLAGS
    optimizer = values.optimizer if values["optimizer"].present else None
    start = starting_config(
        recipe=values.recipe,
        method=method,
        optimizer=optimizer,
        typed={**command_line.typed_settings(), **settings},
        version=study_output.starting_version(values.workdir),
    )
    epochs = starting_config(recipe=values.recipe, method="standard", optimizer=optimizer).epochs
    base = changed(start, **{"epochs": epochs, "task": "classification", **settings})
    return command_line.read_flags(FinetuneConfig, base=base, without=_SET_HERE)


def _command(method: str, settings: Mapping[str, Any], config: FinetuneConfig) -> str:
    """The command of a whole training."""
    values = flags.FLAGS
    known = dict.fromkeys(("dataset", *declared(FinetuneConfig), "recipe"))
    names = [name for name in known if name not in (*_SET_HERE, "workdir")]
    typed = [values[name].serialize() for name in names if name in values and values[name].present]
    setting_flags = [f"--{name}={value}" for name, value in {"method": method, **settings}.items()]
    if config.dataset.startswith("csv:"):
        setting_flags.append(f"--task={config.task}")  # the labels of a table might be taken for numbers
    epochs = [] if values["epochs"].present else [f"--epochs={config.epochs}"]
    words = "".join(
        letter if letter.isalnum() else "_" for letter in f"{method}-{Path(settings['pretrained']).name}"
    )
    workdir = f"--workdir={Path('runs') / f'recommended-{words}'}"
    return as_started(shlex.join(["finetune-jax", "finetune", *typed, *setting_flags, *epochs, workdir]))


def _asked() -> dict[str, Any]:
    """What a record is about: all that was typed, but for the budget and where things lie."""
    values = flags.FLAGS
    local = {name for name, setting in declared(FinetuneConfig).items() if setting.local}
    names = (*declared(FinetuneConfig), "recipe", "origins", "methods", "images_per_class")
    return {
        name: json.loads(json.dumps(values[name].value))
        for name in names
        if name in values and values[name].present and name not in local
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it to begin anew") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds no recommendation; remove it to begin anew")
    return record
