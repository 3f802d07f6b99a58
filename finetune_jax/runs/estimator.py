"""An estimator of scikit-learn: images in, classes out, for cross-validation, searches and pipelines."""

import dataclasses
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from finetune_jax.config.declaration import declared
from finetune_jax.config.settings import FinetuneConfig
from finetune_jax.data import in_memory, split_rules
from finetune_jax.data.in_memory import Held, Part
from finetune_jax.errors import UserError
from finetune_jax.models.card import read_best
from finetune_jax.runs import in_python
from finetune_jax.runs.predict import Predictor

_SETTINGS = tuple(name for name in declared(FinetuneConfig) if name not in ("dataset", "workdir"))


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tuning as an estimator of scikit-learn.

    Its parameters are ``recipe``, ``workdir`` and all settings of ``finetune`` (docs/reference/settings.md); one that
    is None is as in the command. Images are an array uint8 ``[N, h, w, C]``, or a list of paths, Pillow images, encoded
    files or arrays. A part of them (``validation_fraction``) chooses the best epoch; none is kept for a test, which is
    what scores of scikit-learn are for.

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

    def __init__(self, **settings: Any) -> None:
        self.recipe = settings.pop("recipe", None)
        self.workdir = settings.pop("workdir", None)
        for name in _SETTINGS:
            setattr(self, name, settings.pop(name, None))
        if settings:
            # As any other function says it, which is what scikit-learn expects of a constructor.
            raise TypeError(f"ImageClassifier() got an unexpected keyword argument {next(iter(settings))!r}")

    def fit(self, X: Any, y: Any) -> "ImageClassifier":
        """Fine-tune.

        Args:
            X: N images.
            y: their labels, ``[N]``.

        Returns:
            The estimator itself.

        Raises:
            UserError: a setting is out of range, or images and labels cannot be used.
        """
        labels = np.asarray(y)
        check_classification_targets(labels)
        values = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        classes, numbers = np.unique(labels, return_inverse=True)
        config = in_python.config_of(values, self.recipe)
        held = _without_test(in_python.hold(config, Part(X, numbers)), config)
        config = dataclasses.replace(config, dataset=held.source.name)
        with tempfile.TemporaryDirectory(prefix="finetune_jax") as folder:
            fitted = in_python.run(config, self.workdir or Path(folder, "run"), held)
            self._card, self._variables = read_best(fitted.directory)
        self.classes_ = classes
        self.summary_ = dict(fitted.summary)
        self._predictor: Predictor | None = None
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, float32 ``[N, C]``, columns in the order of ``classes_``."""
        check_is_fitted(self)
        if self._predictor is None:
            self._predictor = Predictor(self._card, self._variables)
        return self._predictor(X)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each image, ``[N]``."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

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


def _keywords() -> inspect.Signature:
    """The parameters of the constructor one by one, which scikit-learn reads."""
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    defaults = {"recipe": None, "workdir": None, **dict.fromkeys(_SETTINGS)}
    given = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    return inspect.Signature([own, *given])


ImageClassifier.__init__.__signature__ = _keywords()  # type: ignore[attr-defined]


def _without_test(held: Held, config: FinetuneConfig) -> Held:
    """The images with a validation split and no test images of their own: what is validated is "tested" too."""
    source = split_rules.carved(held.source, "validation", config.validation_fraction, config.split_seed)
    if not len(source.splits["validation"]) and config.select_on == "validation":
        raise UserError("validation_fraction=0 leaves no images to choose an epoch by; give select_on='last'")
    tested = "validation" if len(source.splits["validation"]) else "train"
    note = f"test: the {tested} images again, as an estimator keeps none apart"
    splits = {**source.splits, "test": source.splits[tested]}
    return in_memory.hold_source(dataclasses.replace(source, splits=splits, notes=(*source.notes, note)))
