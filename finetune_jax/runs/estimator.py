"""Estimators of scikit-learn: images in, classes or numbers out, for cross-validation, searches and pipelines."""

import dataclasses
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, column_or_1d

from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import DEFAULTS, FinetuneConfig
from finetune_jax.data import in_memory, split_rules
from finetune_jax.data.in_memory import Held, Part
from finetune_jax.errors import UserError
from finetune_jax.models.card import read_best
from finetune_jax.runs import in_python
from finetune_jax.runs.predict import Predictor

_SETTINGS = tuple(name for name in declared(FinetuneConfig) if name not in ("dataset", "workdir"))


class _ImageEstimator(BaseEstimator):
    """What the estimators share: the settings as parameters, one run per fit, and pickling."""

    def __init__(self, **settings: Any) -> None:
        self.recipe = settings.pop("recipe", None)
        self.workdir = settings.pop("workdir", None)
        for name in _SETTINGS:
            setattr(self, name, settings.pop(name, None))
        if settings:
            # As any other function says it, which is what scikit-learn expects of a constructor.
            unknown = next(iter(settings))
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown!r}")

    def _fit(self, images: Any, labels: np.ndarray, task: str, weights: Any) -> None:
        values = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        config = in_python.config_of({**values, "task": task}, self.recipe)
        held = _without_test(in_python.hold(config, Part(images, labels, weights=weights)), config)
        config = dataclasses.replace(config, dataset=held.source.name)
        if not self.workdir:  # nobody could read it
            config = dataclasses.replace(config, report=False, figures=DEFAULTS["figures"])
        with tempfile.TemporaryDirectory(prefix="finetune_jax") as folder:
            fitted = in_python.run(config, self.workdir or Path(folder, "run"), held)
            self._card, self._variables = read_best(fitted.directory)
        self.summary_ = dict(fitted.summary)
        self._predictor: Predictor | None = None

    def _outputs(self, images: Any) -> np.ndarray:
        """Probabilities or numbers, float32 ``[N, C]``."""
        return self._ready()(images)

    def _ready(self) -> Predictor:
        check_is_fitted(self)
        if self._predictor is None:
            self._predictor = Predictor(self._card, self._variables)
        return self._predictor

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "_predictor" in state:
            state["_predictor"] = None  # holds compiled functions
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags


class ImageClassifier(ClassifierMixin, _ImageEstimator):
    """Fine-tuning as a classifier of scikit-learn.

    Its parameters are ``recipe``, ``workdir`` and all settings of ``finetune`` (docs/reference/settings.md); one that
    is None is as in the command. Images are an array uint8 ``[N, h, w, C]``, or a list of paths, Pillow images, encoded
    files or arrays. A part of them (``validation_fraction``) chooses the best epoch; none is kept for a test, which is
    what scores of scikit-learn are for.

    An image has one label, or any number of them where ``y`` has a row of 0 and 1 for each (``multilabel``, as
    ``MultiLabelBinarizer`` makes it); ``task="ordinal"`` takes labels that are numbers for ordered grades.

    Without ``workdir`` nothing is left on disk, and a fitted estimator can be pickled. With one, the run is kept there:
    fit once, as each run needs its own.

    Attributes:
        classes_: labels in the order of the columns, ``[C]``.
        summary_: of the run.

    Examples:
        >>> import numpy as np
        >>> from sklearn.model_selection import cross_val_score
        >>> import finetune_jax
        >>> classes = np.arange(64) % 2
        >>> noise = np.random.default_rng(0).integers(0, 100, (64, 16, 16, 3))
        >>> images = (noise + 150 * classes[:, None, None, None]).astype(np.uint8)
        >>> classifier = finetune_jax.ImageClassifier(
        ...     method="feature_extractor", image_size=16, epochs=3, batch_size=12, learning_rate=0.1
        ... )
        >>> cross_val_score(classifier, images, classes, cv=2).shape
        (2,)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ImageClassifier":
        """Fine-tune.

        Args:
            X: N images.
            y: their labels, ``[N]``, or 0 and 1 for each label, ``[N, C]``.
            sample_weight: N numbers by which the losses of the images are multiplied; None is 1 for each.

        Returns:
            The estimator itself.

        Raises:
            UserError: a setting is out of range, or images and labels cannot be used.
        """
        labels = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        check_classification_targets(labels)
        task = self.task or "auto"
        if task not in ("auto", "classification", "multilabel", "ordinal"):
            raise UserError(f"task={task!r} gives no classes; use ImageRegressor for numbers, fit for others")
        kind = type_of_target(labels)
        if kind == "multilabel-indicator":
            self._fit(X, labels.astype(np.float32), "multilabel" if task == "auto" else task, sample_weight)
            self.classes_ = np.arange(labels.shape[1])
            return self
        if kind == "multiclass-multioutput":
            raise UserError(
                "y has several labels per image; give a row of 0 and 1 for each (MultiLabelBinarizer)"
            )
        if task == "ordinal" and labels.dtype.kind not in "iuf":
            raise UserError("task='ordinal' takes labels that are numbers, whose order is that of the grades")
        classes, numbers = np.unique(column_or_1d(labels, warn=True), return_inverse=True)
        self._fit(X, numbers, "classification" if task == "auto" else task, sample_weight)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, C]``, columns in the order of ``classes_``."""
        return self._outputs(X)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each image, ``[N]``; of several labels 0 and 1 for each, ``[N, C]``.

        Of several labels those whose probability reaches the threshold that the run chose on validation images.
        """
        probabilities = self.predict_proba(X)
        if self._card.task == "multilabel":
            return self._ready().present(probabilities).astype(int)
        return self.classes_[probabilities.argmax(1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class ImageRegressor(RegressorMixin, _ImageEstimator):
    """Fine-tuning as a regressor of scikit-learn: images in, numbers out, in units of those that it learned from.

    Parameters, images and files as of :class:`ImageClassifier`; ``score`` is R².

    Attributes:
        summary_: of the run.

    Examples:
        >>> import numpy as np
        >>> import finetune_jax
        >>> light = np.random.default_rng(0).uniform(0, 200, 64)
        >>> images = np.broadcast_to(light[:, None, None, None], (64, 16, 16, 3)).astype(np.uint8)
        >>> regressor = finetune_jax.ImageRegressor(
        ...     method="feature_extractor", image_size=16, epochs=2, batch_size=12, learning_rate=0.01
        ... )
        >>> regressor.fit(images, light).predict(images).shape
        (64,)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "ImageRegressor":
        """Fine-tune.

        Args:
            X: N images.
            y: their numbers, ``[N]``, or several of each, ``[N, D]``.
            sample_weight: N numbers by which the losses of the images are multiplied; None is 1 for each.

        Returns:
            The estimator itself.

        Raises:
            UserError: a setting is out of range, or images and numbers cannot be used.
        """
        if (self.task or "auto") not in ("auto", "regression"):
            raise UserError(f"task={self.task!r} gives no numbers; use ImageClassifier")
        numbers = np.asarray(y)
        self._fit(X, numbers, "regression", sample_weight)
        self._flat = numbers.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The number of each image, float32 ``[N]``, or several, ``[N, D]``."""
        values = self._outputs(X)
        return values[:, 0] if self._flat else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _keywords() -> inspect.Signature:
    """The parameters of the constructor one by one, which scikit-learn reads."""
    self_parameter = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    defaults = {"recipe": None, "workdir": None, **dict.fromkeys(_SETTINGS)}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    return inspect.Signature([self_parameter, *parameters])


_ImageEstimator.__init__.__signature__ = _keywords()  # type: ignore[attr-defined]


def _without_test(held: Held, config: FinetuneConfig) -> Held:
    """The images with a validation split and no test images of their own: what is validated is "tested" too."""
    source = split_rules.carved(held.source, "validation", config.validation_fraction, config.split_seed)
    if not len(source.splits["validation"]) and config.select_on == "validation":
        raise UserError("validation_fraction=0 leaves no images to choose an epoch by; give select_on='last'")
    tested = "validation" if len(source.splits["validation"]) else "train"
    note = f"test: the {tested} images again, as an estimator keeps none apart"
    splits = {**source.splits, "test": source.splits[tested]}
    return in_memory.hold_source(dataclasses.replace(source, splits=splits, notes=(*source.notes, note)))
