"""Fine-tuning, measuring and labelling from Python, with images as a program has them."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_jax import data as datasets
from finetune_jax.config import fit_task
from finetune_jax.config.checks import validate
from finetune_jax.config.declaration import Setting, declared
from finetune_jax.config.named_recipes import NAMED_RECIPES, VERSION, starting_config
from finetune_jax.config.recipes import changed
from finetune_jax.config.settings import DataConfig, FinetuneConfig
from finetune_jax.config.spelling import data_set
from finetune_jax.data import in_memory, memory_labels
from finetune_jax.data.examples import Source
from finetune_jax.data.in_memory import Held, Part
from finetune_jax.devices.replicas import Replicas, local_replicas
from finetune_jax.errors import UserError, readable
from finetune_jax.files.run_directory import RunDirectory, data_config_of
from finetune_jax.models.card import Card
from finetune_jax.runs import evaluate as measuring
from finetune_jax.runs import finetune
from finetune_jax.runs.predict import Predictor, load

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A run that has ended.

    Attributes:
        directory: that keeps all of it; the commands take it as ``--run``.
        summary: the content of its ``summary.json``, test scores among it.
        held: the images, where they came from memory; :func:`evaluate` finds them as long as this object lives.
    """

    directory: Path
    summary: Mapping[str, Any]
    held: Held | None = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """Its best checkpoint, as :func:`load` gives it."""
        return load(self.directory)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of probabilities."""
        return self.predictor.class_names

    def __call__(self, images: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, num_classes]``; images and errors as of ``Predictor``."""
        return self.predictor(images)


def fit(
    images: Any,
    labels: Any = None,
    *,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    groups: Sequence[Any] | None = None,
    weights: Any = None,
    workdir: str | Path = "",
    recipe: str | None = None,
    **settings: Any,
) -> Fitted:
    """Fine-tune a pretrained network, as the command ``finetune`` does.

    Called again with the same images, settings and ``workdir`` it goes on where it stopped, or gives the result of the
    run that has ended there.

    Args:
        images: a data set (what ``--dataset`` takes, or the path of a folder or table), or N training images: an array
            uint8 ``[N, h, w, C]`` of NumPy or JAX, or a list of paths, Pillow images, encoded files, arrays.
        labels: of the images, N names or numbers of classes; N lists of names, or rows of 0 and 1, for several classes
            of an image; numbers to be predicted; ``task=…`` says which where it is not plain. None for a data set.
        validation: images and labels that choose the best epoch; None holds out a part of the training images.
        test: images and labels that test the best epoch; None holds out a part of the training images.
        groups: N names, such as of patients; equal ones never lie on two sides of splits that are made.
        weights: N numbers by which the losses of the images are multiplied; None is 1 for each.
        workdir: directory of the run; empty is a new one below ``runs/``.
        recipe: set of settings for all that are not given, as ``--recipe``; None is that of the method.
        **settings: of the run, the flags of ``finetune`` without their dashes (docs/reference/settings.md).

    Returns:
        The run: its directory, its summary, and a callable from images to probabilities.

    Raises:
        UserError: a setting is not known or out of range, images or labels cannot be used.
        TypeError: something is no image.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import finetune_jax
        >>> labels = ["dark", "light"] * 40
        >>> noise = np.random.default_rng(0).integers(0, 100, (80, 16, 16, 3))
        >>> images = (noise + 150 * (np.arange(80) % 2)[:, None, None, None]).astype(np.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = finetune_jax.fit(
        ...         images, labels, workdir=folder, method="feature_extractor", image_size=16, epochs=2, batch_size=12
        ...     )
        ...     probabilities = run(images[:3])
        >>> run.class_names, probabilities.shape
        (('dark', 'light'), (3, 2))
    """
    begun = RunDirectory(Path(workdir).expanduser()).starting_version if workdir else None
    config = config_of(settings, recipe, version=begun or VERSION)
    held = None
    if isinstance(images, str | Path) or labels is None:
        if any(value is not None for value in (labels, validation, test, groups, weights)):
            raise UserError(
                "a data set brings its own labels and splits; leave labels, validation, test, groups and weights out"
            )
        if isinstance(images, Source):
            held = in_memory.hold_source(images)
            config = dataclasses.replace(config, dataset=held.source.name)
        elif isinstance(images, str | Path):
            config = dataclasses.replace(config, dataset=data_set(str(images)))
        else:
            raise UserError("labels are missing: give one for each image")
    else:
        held = hold(config, Part(images, labels, groups, weights), validation=validation, test=test)
        config = dataclasses.replace(config, dataset=held.source.name)
    return run(config, workdir, held)


def run(config: FinetuneConfig, workdir: str | Path, held: Held | None) -> Fitted:
    """The run of a config.

    Args:
        config: but for its directory.
        workdir: of the run; empty is a new one below ``runs/``.
        held: its images, where they are in memory.
    """
    directory = Path(workdir).expanduser() if workdir else _new_directory()
    config = dataclasses.replace(config, workdir=str(directory))
    replicas = local_replicas()
    if config.batch_size % replicas.count:
        # A program that did not ask for several devices shall not fail because of them.
        replicas = Replicas(replicas.devices[:1])
    return Fitted(directory, finetune.run(config, replicas), held)


def hold(
    config: DataConfig,
    train: Part,
    *,
    validation: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
) -> Held:
    """Images in memory as a data set; arguments and errors as of :func:`fit`."""
    arguments = {"train": train, "validation": validation, "test": test}
    parts = {split: Part(*part) for split, part in arguments.items() if part is not None}
    return in_memory.hold(
        parts,
        decoding=datasets.decoding(config),
        task=fit_task.task_of(config),
        workers=config.decode_workers or None,
    )


def config_of(
    settings: Mapping[str, Any], recipe: str | None = None, *, version: int = VERSION
) -> FinetuneConfig:
    """The config of some settings; what is not given is as in the command.

    Args:
        settings: by name.
        recipe: see :func:`fit`.
        version: of the values that are not given, see ``named_recipes.starting_config``.

    Raises:
        UserError: a setting is not known, of another type, or out of range.
    """
    known = declared(FinetuneConfig)
    for name in settings:
        if name not in known or name in ("dataset", "workdir"):
            meant = [other for other, setting in known.items() if name in setting.aliases]
            hint = f"; it is called {meant[0]} here" if meant else ""
            raise UserError(
                f"there is no setting {readable(name)}{hint} (docs/reference/settings.md lists all)"
            )
    if recipe is not None and recipe not in NAMED_RECIPES:
        raise UserError(f"recipe={readable(recipe)} is not known; choose {', '.join(NAMED_RECIPES)}")
    method, optimizer = settings.get("method"), settings.get("optimizer")
    for name, value in (("method", method), ("optimizer", optimizer)):
        if value is not None and value not in (known[name].choices or ()):
            raise UserError(
                f"{name}={readable(value)} is not known; choose {', '.join(known[name].choices or ())}"
            )
    base = starting_config(recipe=recipe, method=method, optimizer=optimizer, typed=settings, version=version)
    values = {name: _of_kind(known[name], value) for name, value in settings.items()}
    config = changed(base, **values)
    validate(config)
    return config


def evaluate(
    run: str | Path | Fitted,
    images: Any = None,
    labels: Any = None,
    *,
    split: str = "test",
    views: str = "one",
    **settings: Any,
) -> dict[str, Any]:
    """Measure a run on a split of its own data, on another data set, or on images in memory.

    Args:
        run: directory of a run, or what :func:`fit` gave.
        images: a data set (what ``--dataset`` takes), or N images as :func:`fit` takes them; None for the run's own.
        labels: of images in memory, N names or numbers of the run's classes.
        split: of a data set: ``train``, ``validation`` or ``test``.
        views: of every image, over which logits are averaged: ``one``, ``mirror``, ``five_crops`` or ``ten_crops``.
        **settings: of the data, as flags of ``evaluate`` without their dashes.

    Returns:
        ``scores`` by name; for classification also recall, counts and confusions per class.

    Raises:
        UserError: no such run, the images do not go with it, or the data cannot be read.

    Examples:
        >>> import tempfile
        >>> import finetune_jax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = {"method": "feature_extractor", "epochs": 1, "image_size": 8, "report": False}
        ...     run = finetune_jax.fit("digits", workdir=folder, **settings)
        ...     result = finetune_jax.evaluate(run, split="validation")
        >>> 0 <= result["scores"]["accuracy"] <= 1
        True
    """
    directory = run.directory if isinstance(run, Fitted) else Path(run).expanduser()
    if labels is not None:
        return _measured(load(directory, views=views), directory, images, labels)
    of_run = data_config_of(directory)
    known = declared(DataConfig)
    for name in settings:
        if name not in known:
            raise UserError(f"there is no setting {readable(name)} of the data")
    values = {name: _of_kind(known[name], value) for name, value in settings.items()}
    config = dataclasses.replace(of_run, **values)
    if isinstance(images, str | Path):
        config = dataclasses.replace(config, dataset=data_set(str(images)))
    elif images is not None:
        raise UserError("labels are missing: give one for each image")
    if split not in _SPLITS:
        raise UserError(f"split={readable(split)} is not known; choose {', '.join(_SPLITS)}")
    return measuring.measure(
        directory, config, local_replicas(), split=split, protocol=config.protocol, views=views
    )


def predict(run: str | Path | Fitted, images: Any, *, views: str = "one") -> list[Any]:
    """What each image is: its likeliest class; :func:`load` gives probabilities and embeddings.

    Args:
        run: directory of a run, or what :func:`fit` gave.
        images: one or several, as ``Predictor`` takes them: paths, Pillow images, encoded files, arrays.
        views: of every image, over which logits are averaged: ``one``, ``mirror``, ``five_crops`` or ``ten_crops``.

    Returns:
        The name of a class for each image, a tuple of names of ``multilabel``, or a number of ``regression``.

    Raises:
        UserError: no such run, or an image cannot be read.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import finetune_jax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = {"method": "feature_extractor", "epochs": 1, "image_size": 8, "report": False}
        ...     run = finetune_jax.fit("digits", workdir=folder, **settings)
        ...     names = finetune_jax.predict(run, np.zeros((2, 8, 8), np.uint8)[..., None])
        >>> len(names), set(names) <= set("0123456789")
        (2, True)
    """
    if isinstance(run, Fitted) and views == "one":
        predictor = run.predictor
    else:
        predictor = load(run.directory if isinstance(run, Fitted) else Path(run).expanduser(), views=views)
    return predictor.labels(images)


def _measured(predictor: Predictor, directory: Path, images: Any, labels: Any) -> dict[str, Any]:
    card = predictor.card
    truth = _truth(card, labels)
    outputs = predictor.logits(images)
    if len(outputs) != len(truth):
        raise UserError(f"{len(outputs)} images and {len(truth)} labels are given")
    return {"run": str(directory), "images": len(truth), **measuring.described(card, outputs, truth)}


def _truth(card: Card, labels: Any) -> np.ndarray:
    """Labels in the run's own numbers: int32 ``[N]``, or targets float32 ``[N, D]``.

    Raises:
        UserError: they are of another kind or of other classes than the run's.
    """
    kind = "classification" if card.task == "ordinal" else card.task
    if kind == "classification":
        numbers = {name: number for number, name in enumerate(card.class_names)}
        names = memory_labels.names(labels, "labels")
        unknown = sorted(set(names) - set(numbers))
        if unknown:
            raise UserError(
                f"the run does not know the classes {readable(', '.join(unknown[:10]))}; it knows "
                f"{', '.join(card.class_names[:10])}"
            )
        return np.array([numbers[name] for name in names], np.int32)
    understood = memory_labels.understand({"train": labels}, kind)
    assert understood.targets is not None
    targets = understood.targets["train"]
    if understood.class_names == card.class_names or (kind == "regression" and targets.shape[1] == 1):
        return targets
    places = [card.class_names.index(name) for name in understood.class_names if name in card.class_names]
    if kind == "regression" or len(places) < len(understood.class_names):
        raise UserError(
            f"the labels are {', '.join(understood.class_names[:10])}, and the run knows "
            f"{', '.join(card.class_names[:10])}"
        )
    whole = np.zeros((len(targets), len(card.class_names)), np.float32)
    whole[:, places] = targets
    return whole


def _of_kind(setting: Setting, value: Any) -> Any:
    """A value as the config keeps it: lists as tuples, numbers of NumPy as Python's.

    Raises:
        UserError: it is of another kind.
    """
    default = setting.default
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, Path):
        value = str(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple | np.ndarray):
        return tuple(value)
    kinds: tuple[type, ...] = (type(default),)
    if default is None:
        kinds = (float, int, type(None))
    elif isinstance(default, float):
        kinds = (float, int)
    if type(value) not in (*kinds, *([str] if setting.words else [])):
        raise UserError(f"{setting.name}={readable(repr(value), 60)} must be {_kind(default)}")
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _kind(default: Any) -> str:
    names = {bool: "True or False", int: "a whole number", str: "a text", tuple: "a list"}
    return names.get(type(default), "a number")


def _new_directory() -> Path:
    root = Path("runs")
    stamp = time.strftime("python-%Y%m%d-%H%M%S")
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    return next(root / name for name in names if not (root / name).exists())
