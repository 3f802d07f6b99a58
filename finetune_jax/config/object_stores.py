"""Addresses of object stores: which flags take them, and what is said of the others."""

import re

_ADDRESS = re.compile(r"(?:^|[:,])(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_STORES = {
    "abfs": "blobfuse2",
    "abfss": "blobfuse2",
    "adl": "blobfuse2",
    "az": "blobfuse2",
    "file": "",
    "gcs": "gcsfuse",
    "gs": "gcsfuse",
    "hdfs": "hadoop-fuse",
    "memory": "",
    "oss": "ossfs",
    "r2": "s3fs",
    "s3": "mount-s3",
    "s3a": "mount-s3",
    "s3n": "mount-s3",
}
"""Schemes, and the program that mounts them as a folder."""

_ELSEWHERE = frozenset({"", "http", "https"})
"""No address, or one that is no place for a folder: what reads the flag says what it takes."""

TAKEN_BY = frozenset({"data_dir", "compilation_cache"})
"""Flags whose libraries (TFDS, JAX) read object stores themselves."""


_FOLDERS = frozenset({"abfs", "abfss", "az", "gcs", "gs", "memory", "s3", "s3a"})
"""Schemes of which ``--dataset=folder:…`` makes a local copy, see ``data.object_store``."""


def is_folder(dataset: str) -> bool:
    """Whether a data set is a folder on a store that is read.

    >>> is_folder("folder:gs://bucket/photos"), is_folder("folder:photos")
    (True, False)
    """
    kind, _, address = dataset.partition(":")
    scheme, separator, _ = address.partition("://")
    return kind == "folder" and bool(separator) and scheme.lower() in _FOLDERS


def is_read(address: str) -> bool:
    """Whether a value is an address on a store that working copies can be made of.

    >>> is_read("s3://bucket/runs"), is_read("hdfs://cluster/runs"), is_read("runs")
    (True, False, False)
    """
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme.lower() in _FOLDERS


def refusal(flag: str, value: str) -> str:
    """Why an address is no value of a flag; empty where it is none.

    Otherwise ``gs://bucket/run`` would become a local folder called ``gs:``.

    Args:
        flag: its name.
        value: on the command line.

    >>> refusal("workdir", "gs://bucket/run")
    '--workdir=gs://bucket/run: gs:// is not supported; mount the bucket as a folder (gcsfuse) and name that'
    >>> refusal("workdir", "magic://bucket/run")
    '--workdir=magic://bucket/run: magic:// is not known; give the path of a folder, or an address of gs://, s3:// or az://'
    >>> refusal("workdir", "runs/gs")
    ''
    """
    match = _ADDRESS.search(value)
    scheme = match["scheme"].lower() if match else ""
    if scheme in _ELSEWHERE or flag in TAKEN_BY or (flag == "dataset" and is_folder(value)):
        return ""
    if scheme not in _STORES:
        known = "give the path of a folder, or an address of gs://, s3:// or az://"
        return f"--{flag}={value}: {scheme}:// is not known; {known}"
    if not _STORES[scheme]:
        return f"--{flag}={value}: {scheme}:// is not supported; give the path of a folder"
    advice = f"mount the bucket as a folder ({_STORES[scheme]}) and name that"
    return f"--{flag}={value}: {scheme}:// is not supported; {advice}"
