"""The model card of a run, and its way to the Hugging Face hub with the files that it describes."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from finetune_jax.config import recorded
from finetune_jax.config.recipes import recipe
from finetune_jax.config.settings import LOCAL_SETTINGS, FinetuneConfig
from finetune_jax.errors import UserError, readable
from finetune_jax.files import readers
from finetune_jax.files.run_directory import RunDirectory, config_of_run
from finetune_jax.models.card import read_best
from finetune_jax.reports import model_card
from finetune_jax.runs.report import versions

FILE = "model_card.md"
ON_THE_HUB = "README.md"


def of_run(run: Path, files: Mapping[str, str] | None = None, *, name: str = "") -> str:
    """The model card of a run that has ended, Markdown.

    Args:
        run: its directory.
        files: that come with it, ``{name: what it is}``.
        name: of the model; empty is that of the directory.

    Raises:
        UserError: it is no run directory, or the run has not ended.
    """
    config = config_of_run(run, FinetuneConfig)
    summary = RunDirectory(run).summary
    if summary is None:
        raise UserError(
            f"--run={readable(run)} has not ended, so there is nothing to say of its test images yet"
        )
    card, _ = read_best(run)
    usual, flags = recorded.lasting(vars(recipe(config.method))), recorded.lasting(vars(config))
    changed = {
        name: value for name, value in flags.items() if value != usual[name] and name not in LOCAL_SETTINGS
    }
    return model_card.markdown(
        model_card.Facts(
            name=name or run.absolute().name,
            summary=summary,
            card=card.to_json(),
            settings=changed,
            files=files or {},
            versions=versions(),
            recall=_recall(run / "predictions-test.csv")
            if card.task in ("classification", "ordinal")
            else (),
        )
    )


def _recall(file: Path) -> list[tuple[str, int, float]]:
    """Class, number and share of the test images that were labelled correctly; nothing where no file tells."""
    if not file.exists():
        return []
    rows = readers.table(file, "delete it, and the card does without the classes")
    images: Counter[str] = Counter(row["label"] for row in rows)
    right: Counter[str] = Counter(row["label"] for row in rows if row["label"] == row["prediction"])
    return [(name, count, right[name] / count) for name, count in sorted(images.items())]


def repository(target: str) -> str:
    """``USER/NAME`` of ``hf:USER/NAME``.

    Raises:
        UserError: it is none.
    """
    kind, _, rest = target.partition(":")
    owner, slash, name = rest.partition("/")
    if kind != "hf" or not (owner and slash and name) or "/" in name:
        raise UserError(f"--push={readable(target)} names no repository; give hf:USER/NAME")
    return rest


def push(target: str, files: Mapping[str, bytes], *, public: bool = False) -> str:
    """Put files into a repository of the Hugging Face hub, in one commit; it is made where there is none.

    Who may write is what ``huggingface-cli login`` or ``HF_TOKEN`` says, and the hub is at ``HF_ENDPOINT``.

    Args:
        target: ``hf:USER/NAME``.
        files: their contents, by the names that they get there.
        public: whether a repository that is made can be read by all.

    Returns:
        The address of the commit.

    Raises:
        UserError: huggingface_hub is not installed, or the hub refuses.
    """
    name = repository(target)
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f'--push={target} needs huggingface_hub: pip install "finetune-jax[hub]"') from None
    try:
        hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        hub.create_repo(name, private=not public, exist_ok=True)
        commit = hub.create_commit(
            name,
            [huggingface_hub.CommitOperationAdd(path, content) for path, content in files.items()],
            commit_message="Add a network of finetune_jax",
        )
    except Exception as error:  # the hub raises a dozen kinds; all of them mean "not taken"
        raise UserError(
            f"--push={target} was refused: {readable(error)}; what was written to the disk is there"
        ) from error
    return str(commit.commit_url)
