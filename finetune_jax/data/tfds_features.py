"""The features of TFDS data sets that hold images and labels, and their values in records."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finetune_jax.data import records
from finetune_jax.data.record_labels import Label, Wanted
from finetune_jax.errors import UserError, readable

_LABELS = ("label", "labels")


class Fields(NamedTuple):
    """Where a record has its image and its labels.

    Attributes:
        image: name of the feature.
        labels: paths of the features, such as ``label`` or ``objects/label``.
        class_names: of their classes; empty where they are numbers or texts.
        classes: whether each image has one of the classes.
    """

    image: str
    labels: tuple[str, ...]
    class_names: tuple[str, ...]
    classes: bool

    @property
    def kept_as(self) -> str:
        """Name under which the values of all records are remembered."""
        return (
            "labels" if self.classes and self.labels == ("label",) else f"labels of {','.join(self.labels)}"
        )

    def label(self, value: Any) -> Label:
        """What a value of :meth:`of_decoded` or :meth:`of_serialised` says."""
        if not self.class_names:
            return records.label_of(value) or ()
        numbers = [value] if isinstance(value, int) else value
        return tuple(self.class_names[number] for number in dict.fromkeys(numbers))

    def of_decoded(self, record: Mapping[str, Any]) -> Any:
        """Of a record that TFDS decoded."""
        values = []
        for path in self.labels:
            value: Any = record
            for part in path.split("/"):
                value = value[part]
            values.append(value.tolist() if hasattr(value, "tolist") else value)
        return self._as_json(values)

    def of_serialised(self, features: Any) -> Any:
        """Of the features of a ``tf.train.Example``."""
        values: list[Any] = []
        for path in self.labels:
            lists = (features[path].int64_list, features[path].float_list, features[path].bytes_list)
            feature_values: list[Any] = next((list(kind.value) for kind in lists if kind.value), [])
            if not feature_values and self.classes:
                raise ValueError(f"there is no {path}")
            values.append(
                feature_values[0] if len(feature_values) == 1 and not self._lists else feature_values
            )
        return self._as_json(values)

    @property
    def _lists(self) -> bool:
        """Whether an image has a list of classes."""
        return bool(self.class_names) and not self.classes

    def _as_json(self, values: Sequence[Any]) -> Any:
        plain = [_text(value) for value in values]
        return plain[0] if len(plain) == 1 else plain


def fields_of(name: str, builder: Any, asked: Wanted) -> Fields:
    """The features of a data set that hold its images and labels.

    Args:
        name: of the data set.
        builder: of TFDS.
        asked: their names, where they are not to be guessed.

    Raises:
        UserError: there are none such, or of another kind; names those that are there.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds = tfds.features
    there = ", ".join(sorted(features))
    image = asked.image or "image"
    if not isinstance(_at(features, image, kinds)[0], kinds.Image):
        raise UserError(
            f"--dataset=tfds:{name}: needs the features image and label (a class, several, or numbers), but has "
            f"{there}; name others with --columns=image=NAME,label=NAME"
        )
    labels = asked.labels or tuple(key for key in _LABELS if key in features)[:1]
    label_features = [_at(features, path, kinds) for path in labels]
    known = (kinds.ClassLabel, kinds.Scalar, kinds.Text, kinds.Tensor)
    if not label_features or not all(isinstance(feature, known) for feature, _ in label_features):
        missing = [path for path, (feature, _) in zip(labels, label_features, strict=True) if feature is None]
        raise UserError(
            f"--dataset=tfds:{name}: needs the features image and label (a class, several, or numbers), but has {there}"
            + (f" and no {readable(missing[0])}" if missing else "")
            + "; name others with --columns=image=NAME,label=NAME"
        )
    feature, in_list = label_features[0]
    if len(label_features) > 1 or not isinstance(feature, kinds.ClassLabel):
        return Fields(image, labels, (), False)
    return Fields(image, labels, tuple(feature.names), not in_list)


def _at(features: Any, path: str, kinds: Any) -> tuple[Any, bool]:
    """The feature at a path such as ``objects/label``, and whether it lies in a list; None where there is none."""
    feature, in_list = features, False
    for part in path.split("/"):
        if isinstance(feature, kinds.Sequence):
            feature, in_list = feature.feature, True
        if not hasattr(feature, "keys") or part not in feature:
            return None, False
        feature = feature[part]
    if isinstance(feature, kinds.Sequence):
        feature, in_list = feature.feature, True
    return feature, in_list


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(part) for part in value]
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
