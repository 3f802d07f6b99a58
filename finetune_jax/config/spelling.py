"""What people may type in the place of a value: short forms that mean the same."""

import os

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")

_KINDS = ("folder:", "csv:", "tfds:", "hf:", "webdataset:", "arrayrecord:", "memory:")


def data_set(name: str) -> str:
    """The full name of a data set: the path of an existing folder becomes ``folder:PATH``, of a table ``csv:PATH``.

    ``digits`` and names with a prefix stay as they are, whatever folders there are.
    """
    if name == "digits" or name.startswith(_KINDS) or not name:
        return name
    path = os.path.expanduser(name)
    if name.lower().endswith(TABLE_SUFFIXES) and os.path.isfile(path):
        return f"csv:{name}"
    return f"folder:{name}" if os.path.isdir(path) else name
