"""What people may type in the place of a value: short forms that mean the same."""

import os


def data_set(name: str) -> str:
    """The full name of a data set: the path of an existing folder becomes ``folder:PATH``.

    ``digits`` and names with a prefix stay as they are, whatever folders there are.
    """
    if name == "digits" or name.startswith(("folder:", "tfds:")) or not name:
        return name
    return f"folder:{name}" if os.path.isdir(os.path.expanduser(name)) else name
