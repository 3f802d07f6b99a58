"""A directory on an object store: which objects are its files, as one object says that is written last."""

import contextlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from finetune_jax.config import stores

INSIDE = ".finetune_jax"
"""Folder on the store for what is no file of the directory."""
MANIFEST = f"{INSIDE}/manifest.json"


class Entry(NamedTuple):
    """A file of the directory.

    Attributes:
        size: in bytes.
        digest: of its content; empty where nobody has committed it.
        at: path of the object that holds it, from the directory or whole.
    """

    size: int
    digest: str
    at: str


Files = dict[str, Entry]
"""By their names, from the directory."""


class StoreDirectory:
    """A directory on a store.

    Attributes:
        address: of it.
        flag: with its value, for messages.
        system: of fsspec.
        root: path of the directory there.
        owner: path of the directory whose manifest names its files, perhaps one above it.
    """

    def __init__(self, address: str, flag: str) -> None:
        """Open the store; errors as of ``stores.opened``."""
        self.address, self.flag = address.rstrip("/"), flag
        self.system, self.root = stores.opened(flag, self.address)
        self.owner = self.root

    def committed(self) -> tuple[str, Files]:
        """The last commit and its files; an empty name for a directory that no working copy has made."""
        self.system.invalidate_cache()
        above, inside = self.root, ""
        while True:
            content = None
            with contextlib.nullcontext() if above == self.root else contextlib.suppress(Exception):
                content = self._object(f"{above}/{MANIFEST}")
            if content is not None:
                self.owner = above
                manifest = json.loads(content)
                files = {name: Entry(*entry) for name, entry in manifest["files"].items()}
                # A run of a study: the study's manifest names it.
                files = {
                    name.removeprefix(inside): entry._replace(at=f"{above}/{entry.at}")
                    for name, entry in files.items()
                    if name.startswith(inside)
                }
                return str(manifest["commit"]), files
            above, _, name = above.rpartition("/")
            inside = f"{name}/{inside}"
            if not above.strip("/"):
                return "", self.listed()

    def listed(self) -> Files:
        """What lies there, for directories that were copied to the store by other means."""
        listing = self.system.find(self.root, detail=True)
        return {
            stores.relative(self.flag, name, self.root): Entry(int(info["size"]), "", name)
            for name, info in listing.items()
            if not name.endswith("/") and f"/{INSIDE}/" not in name
        }

    def _object(self, path: str) -> bytes | None:
        try:
            return bytes(self.system.cat_file(path))
        except FileNotFoundError:
            return None

    def relative(self, files: Files) -> Files:
        """The same files, objects of the directory called by their path from it."""
        return {
            name: entry._replace(at=entry.at.removeprefix(f"{self.root}/")) for name, entry in files.items()
        }

    def commit(self, files: Mapping[str, Entry]) -> str:
        """Make files the content of the directory; their objects must be there.

        Returns:
            Name of the commit.
        """
        commit = uuid.uuid4().hex
        self.write(MANIFEST, json.dumps({"version": 1, "commit": commit, "files": files}).encode())
        return commit

    def write(self, name: str, content: bytes | Path) -> None:
        """Write an object of the directory.

        Args:
            name: from the directory.
            content: or the file that has it.
        """
        target = f"{self.root}/{name}"
        with contextlib.suppress(Exception):  # most stores have no folders
            self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if isinstance(content, bytes):
            self.system.pipe_file(target, content)
        else:
            self.system.put_file(str(content), target)

    def remove(self, name: str) -> None:
        """Remove an object of the directory, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.system.rm_file(f"{self.root}/{name}")
