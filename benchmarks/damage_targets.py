"""Files and folders of which ``benchmarks.damage`` feeds damaged copies."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks import damage_data
from benchmarks.damage_target import Target

ROOT = Path(__file__).parents[1]


def _arrays() -> dict[str, Any]:
    import numpy as np

    chance = np.random.default_rng(0)
    return {f"layer{number}.weight": chance.normal(size=(6, 5)).astype(np.float32) for number in range(6)}


def _comparable(state: Any) -> Any:
    import jax
    import numpy as np

    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def _write_weights(path: Path) -> None:
    from finetune_jax.files.weight_files import read_write

    read_write.write(path, _arrays())


def _write_torch(path: Path) -> None:
    shutil.copyfile(ROOT / "tests/golden/torch_files" / path.name, path)


def _write_shards(path: Path) -> None:
    import safetensors.numpy

    path.mkdir()
    arrays = _arrays()
    parts = {"a.safetensors": list(arrays)[:3], "b.safetensors": list(arrays)[3:]}
    for name, keys in parts.items():
        (path / name).write_bytes(safetensors.numpy.save({key: arrays[key] for key in keys}))
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_weights(path: Path) -> Any:
    from finetune_jax.files.weight_files import read_write

    return _comparable(read_write.read_entry(path).state)


def _write_checkpoint(path: Path) -> None:
    from finetune_jax.files.checkpoints import Checkpoints

    saver = Checkpoints(path, writable=True)
    saver.save(7, {"variables": _arrays()}, {"mean": [0.5, 0.25, 1.0], "best_score": 0.5}, score=0.5)
    saver.close()


def _read_checkpoint(path: Path) -> Any:
    from finetune_jax.files import checkpoints

    step = checkpoints.best_step(path)
    if step is None:
        return None  # nothing there: what is not whole is no checkpoint
    return _comparable(checkpoints.restore_variables(path, step, _arrays())), checkpoints.read_meta(
        path, step
    )


def _write_run(path: Path) -> None:
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.files.run_directory import RunDirectory

    directory = RunDirectory(path)
    directory.claim(vars(FinetuneConfig()))
    for epoch in (1, 2):
        directory.add_metrics({"epoch": epoch, "step": 20 * epoch, "loss": 0.1 + epoch})
        directory.add_pass({"epoch": epoch, "step": 20 * epoch, "trial": 1})
    directory.write_summary({"test_accuracy": 0.5})
    directory.close()
    shutil.rmtree(path / "tensorboard")


def _read_run(path: Path) -> Any:
    from finetune_jax.config.settings import FinetuneConfig
    from finetune_jax.files.run_directory import RunDirectory, data_config_of

    directory = RunDirectory(path)
    directory.check(vars(FinetuneConfig()))
    directory.drop_rows_after(20)
    return directory.summary, directory.resolved, directory.read_metrics(), data_config_of(path)


def _write_card(path: Path) -> None:
    card = {
        "architecture": "resnet26_policy",
        "width": 0.125,
        "blocks": 3,
        "class_names": ["a", "b"],
        "preprocessing": {"image_size": 8, "resize": 9, "mode": "stretch"},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "bfloat16": False,
    }
    path.write_text(json.dumps(card))


def _read_card(path: Path) -> Any:
    from finetune_jax.files import readers
    from finetune_jax.models.card import Card

    card = Card.from_json(readers.json_object(path, "bring it back"))
    card.model().shapes()
    return card


def _queue(path: Path) -> Any:
    from finetune_jax.studies.sweeps.search import Search
    from finetune_jax.studies.sweeps.trial_queue import TrialQueue

    search = Search(learning_rates=(0.1, 0.01), momenta=(0.9,), weight_decays=(0.0,))
    return TrialQueue(str(path), "hpo", search, {"epochs": 3})


def _write_journal(path: Path) -> None:
    with _queue(path) as queue:
        for taken in queue.take(2):
            queue.report(taken, 1, 0.25)
            queue.finish(taken, [0.5])


def _read_journal(path: Path) -> Any:
    queue = _queue(path)
    return queue.done, queue.records()


def _write_reference(path: Path) -> None:
    path.write_text(json.dumps({"birds": {"similarity": 0.8, "effective_learning_rate": 0.01}}))


def _read_reference(path: Path) -> Any:
    from finetune_jax.runs import references

    return references.load(str(path), "resnet26")


def _write_flags(path: Path) -> None:
    path.write_text("--dataset=digits\n# a remark\n--epochs=3\n--learning_rate=0.01\n")


def _read_flags(path: Path) -> Any:
    from absl import flags

    from finetune_jax.commands import command_line, finetune, parsing
    from finetune_jax.config.settings import FinetuneConfig

    flags.FLAGS.unparse_flags()
    try:
        parsing.parse(
            ["finetune", f"--flagfile={path}"], "finetune", finetune.__doc__ or "", command_line.SETTINGS
        )
    except SystemExit as ended:  # a remark that asks for help does so
        return ended.code
    return command_line.read_flags(FinetuneConfig)


def _write_lock(path: Path) -> None:
    path.mkdir()
    values = {"place": "elsewhere", "process": 7, "started": "1", "since": 1e9, "token": "t"}
    (path / ".lock").write_text(json.dumps(values))


def _read_lock(path: Path) -> Any:
    from finetune_jax.files import lock

    if (path / lock.NAME).exists():
        os.utime(path / lock.NAME, (0, 0))  # its owner is long dead
    lock.refuse_if_held(path)


TARGETS = [
    Target("weights.npz", _write_weights, _read_weights),
    Target("weights.safetensors", _write_weights, _read_weights),
    *(
        Target(name, _write_torch, _read_weights)
        for name in ("checkpoint.pth", "dtypes_legacy.pth", "layouts_protocol4.pth")
    ),
    Target("shards", _write_shards, _read_weights),
    # Digests: nothing but the intact content, or none, may come back.
    Target("checkpoints", _write_checkpoint, _read_checkpoint, accepts=lambda result: result is None),
    Target("run", _write_run, _read_run),
    Target("card.json", _write_card, _read_card),
    Target("study.journal", _write_journal, _read_journal),
    Target("flagfile", _write_flags, _read_flags),
    Target("reference.json", _write_reference, _read_reference),
    Target("lock", _write_lock, _read_lock),
    *damage_data.TARGETS,
]
"""What is fed."""
