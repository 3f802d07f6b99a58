"""Run directories and studies on object stores: a local working copy, committed to the store as it grows.

Everything works on the copy, a folder of this machine like any other. Beside it a thread looks every few seconds what
has changed, uploads it, and last writes the manifest, one object that says which objects are the directory: until then
the store has the directory as it was. A run directory can be gone on with whenever a process is killed, so a copy that
is taken between two checkpoints can, too. What a start finds in the manifest is brought here, unless this copy was made
from it and has only gone further.

An object that a manifest names is never written again: files of checkpoints, which do not change, are objects of their
own names; a file that may change is ``.finetune_jax/objects/DIGEST``, and once the manifest names that, also an object
of its own name, for people and TensorBoard.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from finetune_jax.config import stores
from finetune_jax.errors import UserError
from finetune_jax.files import lock
from finetune_jax.files.steady_folder import (
    WRITTEN_ONCE,
    Unsteady,
    digest_of_file,
    remove_others,
    steady,
    walk,
)
from finetune_jax.files.store_directory import INSIDE, Entry, Files, StoreDirectory
from finetune_jax.files.store_lock import BEAT_SECONDS, StoreLock

_OBJECTS, _LOCK = f"{INSIDE}/objects", f"{INSIDE}/lock.json"
_LOOK_SECONDS = 5.0
_RETRY_SECONDS = 30.0
_TRANSFERS = 16
_TRIES = 20


class WorkingCopy:
    """The copy of a directory on a store.

    Attributes:
        address: on the store.
        folder: here.
        flag: with its value, for messages.
    """

    def __init__(self, address: str, folder: Path, flag: str) -> None:
        """Open the store; nothing is copied yet.

        Args:
            address: such as ``gs://bucket/runs/photos``.
            folder: of the copy; beside it lies a file that says what it was made from.
            flag: with its value, for messages.

        Raises:
            UserError: the library of the store is not installed, or it cannot be reached.
        """
        self.address, self.folder, self.flag = address.rstrip("/"), folder, flag
        self._store = StoreDirectory(address, flag)
        self._base = folder.with_name(f"{folder.name}.base.json")
        self._commit = ""  # that the copy was made from, or has become
        self._files: Files = {}  # as that commit names them
        self._seen: dict[str, tuple[int, int, str]] = {}  # of local files: size, time, digest
        self._alone = threading.RLock()
        self._lock: StoreLock | None = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._local_lock: int | None = None  # lock of this machine, while this process works on the copy

    # --- from the store ---

    def fetch(self) -> None:
        """Make the copy what the store has, unless it was made from that and has gone further.

        Where another process of this machine works on it, it is left as it is.

        Raises:
            UserError: the store does not give it, or this machine has no room.
        """
        with self._alone, stores.explained(self.flag), self._alone_here() as alone:
            if not alone:
                return
            commit, files = self._store.committed()
            base = _json(self._base)
            if commit and base.get("commit") == commit:
                self._know(commit, files)
                return
            if not commit and not files and not base:
                return  # new
            self._base.unlink(missing_ok=True)  # until the copy is whole
            self._bring(files)
            self._know(commit, files)
            self._write_base()

    @contextlib.contextmanager
    def _alone_here(self) -> Iterator[bool]:
        """Whether no other process of this machine works on the copy, and none begins to within the block."""
        if self._local_lock is not None:
            yield True
            return
        file = self._lock_here()
        try:
            while not _flocked(file):
                if self._base.exists():
                    yield False
                    return
                time.sleep(0.2)  # it is being made
            yield True
        finally:
            os.close(file)

    def _lock_here(self) -> int:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.folder.with_name(f"{self.folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)

    def fetch_listing(self) -> None:
        """Make the copy what a list of runs looks at: checkpoints are there by name and size, without content.

        Raises:
            UserError: the store does not give it.
        """
        with self._alone, stores.explained(self.flag):
            shutil.rmtree(self.folder, ignore_errors=True)
            entries: Files = {}
            for name, entry in self._store.listed().items():
                if WRITTEN_ONCE.isdisjoint(PurePosixPath(name).parts[:-1]) or name.endswith(".json"):
                    entries[name] = entry
                    continue
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.truncate(entry.size)  # takes no room
            self._bring(entries, keep_others=True)

    def fetch_file(self) -> None:
        """Bring a single object here.

        Raises:
            UserError: the store does not give it.
        """
        with self._alone, stores.explained(self.flag):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.folder.with_name(f".{uuid.uuid4().hex}.tmp")
            self._store.system.get_file(self._store.root, str(temporary))
            os.replace(temporary, self.folder)

    def _bring(self, files: Files, *, keep_others: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not keep_others:
            remove_others(self.folder, files)
        here = {name for name, _ in walk(self.folder)}
        missing = {}
        for name, entry in files.items():
            file = self.folder / name
            same = name in here and file.stat().st_size == entry.size and digest_of_file(file) == entry.digest
            if not same:
                missing[name] = entry
        needed, free = sum(entry.size for entry in missing.values()), shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.flag}: {needed / 2**30:.1f} GiB are to be downloaded, and {self.folder} has "
                f"{free / 2**30:.1f} GiB left; make room there, or give another folder with --working_copies"
            )

        def download(name: str) -> None:
            entry, target = missing[name], self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
            self._store.system.get_file(entry.at, str(temporary))
            if temporary.stat().st_size != entry.size or (
                entry.digest and digest_of_file(temporary) != entry.digest
            ):
                temporary.unlink()
                raise UserError(
                    f"{self.flag}: {name} arrived with other content than was committed; start again"
                )
            os.replace(temporary, target)

        _in_parallel(download, missing)

    # --- to the store ---

    def begin(self) -> None:
        """Become the one process that works on the directory, and commit it from now on as it grows.

        Raises:
            UserError: another process works on it, or the store refuses.
        """
        file = self._lock_here()
        if not _flocked(file):
            os.close(file)
            raise UserError(
                f"{self.flag} is in use by another process on this machine; wait for it or end it"
            )
        self._local_lock = file
        with stores.explained(self.flag, "the store does not take it"):
            self._lock = StoreLock(self._store.system, f"{self._store.root}/{_LOCK}", self.flag)
        self.fetch()
        if self._store.owner != self._store.root:
            raise UserError(
                f"{self.flag} is a part of {self._store.owner}; start the command of that with its own --workdir"
            )
        if not self._commit and not self._files:
            # What is uploaded before the first commit is nothing yet.
            with stores.explained(self.flag, "the store does not take it"):
                self._record({})
        self.commit()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._beat)]
        for thread in self._threads:
            thread.start()

    def commit(self) -> None:
        """Bring the store to what the copy is now; nothing where it is that already.

        Raises:
            UserError: the store does not take it, or another process has taken the directory over.
        """
        with self._alone, stores.explained(self.flag, "the store does not take it"):
            for number in range(_TRIES):
                try:
                    self._commit_once()
                    return
                except Unsteady:
                    time.sleep(0.1 * number)
            raise UserError(f"{self.flag}: the directory changes faster than it can be read")

    def _commit_once(self) -> None:
        statuses, contents = steady(self.folder, self._seen)
        files: Files = {}
        uploads: list[tuple[str, str]] = []
        for name, (size, _, digest) in statuses.items():
            before = self._files.get(name)
            if before is not None and before.digest == digest:
                files[name] = before
                continue
            # What changes never has an object that another process, which has lost the directory, might write to.
            at = name if before is None and name not in contents else f"{_OBJECTS}/{digest}"
            files[name] = Entry(size, digest, at)
            uploads.append((name, at))
        if files == self._files and self._commit:
            return
        if self._lock is not None:
            self._lock.check()
        _in_parallel(lambda upload: self._upload(upload[0], upload[1], contents.get(upload[0])), uploads)
        if self._lock is not None:
            self._lock.check()
        before_files = self._files
        self._record(files)
        self._seen = statuses
        obsolete = {entry.at for entry in before_files.values()} - {entry.at for entry in files.values()}
        for name, at in uploads:
            if at != name and name in contents:
                self._store.write(name, contents[name])
                obsolete.discard(name)
        obsolete |= before_files.keys() - files.keys()
        for at in obsolete:
            self._store.remove(at)

    def _record(self, files: Files) -> None:
        self._know(self._store.commit(files), files)
        self._write_base()

    def _upload(self, name: str, at: str, content: bytes | None) -> None:
        try:
            self._store.write(at, self.folder / name if content is None else content)
        except FileNotFoundError as error:
            if (self.folder / name).exists():
                raise
            raise Unsteady from error

    def _follow(self) -> None:
        """Commit as the directory grows; what the store refuses for a while is said once."""
        pause, failing = _LOOK_SECONDS, False
        while not self._ended.wait(pause):
            try:
                self.commit()
                pause, failing = _LOOK_SECONDS, False
            except Exception as error:  # the store's; tried again
                if self._lock is None:
                    return
                if not failing:
                    print(f"warning: {error}; the run goes on in {self.folder}", file=sys.stderr)
                pause, failing = _RETRY_SECONDS, True

    def _beat(self) -> None:
        """Renew the lock, also while an upload takes long."""
        while not self._ended.wait(BEAT_SECONDS):
            held = self._lock
            try:
                if held is not None:
                    held.renew()
            except UserError as error:
                self._give_up(str(error))
                return
            except Exception:  # the store's; whoever wants the directory waits longer
                continue

    def _give_up(self, why: str) -> None:
        """Have the process end at its next write: the directory here is no longer its own either."""
        print(f"error: {why}", file=sys.stderr)
        self._lock = None
        for file in [self.folder / lock.NAME, *self.folder.rglob(lock.NAME)]:
            with contextlib.suppress(OSError):
                if file.exists():
                    file.write_text(
                        json.dumps({"place": "elsewhere", "process": 0, "started": "", "since": 0})
                    )

    def close(self) -> None:
        """Commit the end, and let others have the directory.

        Raises:
            UserError: the store does not take it; the copy is whole.
        """
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self._lock is None:
            return
        held = self._lock
        try:
            self.commit()
        except UserError as error:
            raise UserError(
                f"{error}; everything is in {self.folder}, from where the same command on this machine goes on"
            ) from error
        finally:
            held.release()
            self._lock = None
            if self._local_lock is not None:
                os.close(self._local_lock)
                self._local_lock = None

    @property
    def is_worked_on(self) -> bool:
        """Whether this process commits the directory."""
        return self._lock is not None

    def release(self) -> None:
        """Let others have the directory, without a commit."""
        if self._lock is not None:
            self._lock.release()

    def give_back(self) -> None:
        """Upload files that a command has written beside those that were fetched; files of the commit stay as they are.

        Raises:
            UserError: the store does not take them.
        """
        with self._alone, stores.explained(self.flag, "the store does not take it"):
            for name, _ in walk(self.folder):
                if name not in self._files:
                    self._upload(name, name, (self.folder / name).read_bytes())

    def _know(self, commit: str, files: Files) -> None:
        self._commit, self._files = commit, self._store.relative(files)

    def _write_base(self) -> None:
        if not self._commit:
            return
        temporary = self._base.with_name(f"{self._base.name}.tmp")
        temporary.write_text(json.dumps({"address": self.address, "commit": self._commit}))
        os.replace(temporary, self._base)


def _flocked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _in_parallel(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        for _ in pool.map(work, list(items)):
            pass


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
