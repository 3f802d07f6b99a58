"""Where a sweep is kept: a journal file or a database."""

import os
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from finetune_jax.errors import DAMAGE, UserError, readable

LOCK_SECONDS = 20.0
"""How long to wait for an SQLite file that somebody else has locked."""
_OPENINGS = 10
"""How often to try to open a database in which another worker is making the tables."""


class _Lock(JournalFileSymlinkLock):
    """Optuna's lock of a journal file, which also mends what a full disk or a kill has left.

    A record without its end would make the one after it, and so the whole file, unreadable.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        try:
            with open(self._path, "rb+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                if file.read(1) not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return True


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Raises ``UserError``, ``StorageInternalError`` or ``OSError`` where that is not possible."""
    if "://" in storage:
        return _open_database(storage)
    # The lock is a link to the file: with a relative path it would point nowhere, and never be found stale.
    path = Path(storage).expanduser().absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(str(path))))
    except DAMAGE as error:
        raise UserError(
            f"--storage={readable(storage)} is no journal of a study; give another file"
        ) from error


def _open_database(url: str) -> optuna.storages.BaseStorage:
    import sqlalchemy

    sqlite = url.startswith("sqlite")
    arguments = {"connect_args": {"timeout": LOCK_SECONDS}} if sqlite else {"pool_pre_ping": True}
    try:
        for attempt in range(_OPENINGS):
            try:
                storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
                break
            except sqlalchemy.exc.DBAPIError as error:
                # Another worker is making the tables at this moment.
                message = str(error).lower()
                if attempt == _OPENINGS - 1 or not (
                    "exists" in message or "unique" in message or "duplicate" in message
                ):
                    raise
                time.sleep(0.2)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{shown(url)} cannot be opened: {reason(error)}; give the URL of a database that runs, or the path of "
            "a file"
        ) from error
    if sqlite:
        # Otherwise SQLite reads before it locks, and two workers can take the same trial.
        @sqlalchemy.event.listens_for(storage.engine, "connect")
        def leave_transactions_to_us(connection: Any, record: Any) -> None:
            connection.isolation_level = None

        @sqlalchemy.event.listens_for(storage.engine, "begin")
        def lock_before_reading(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        storage.engine.dispose()
    return storage


def shown(storage: str) -> str:
    """The flag, without a password."""
    if "://" in storage and "@" in storage:
        scheme, rest = storage.split("://", 1)
        user, host = rest.rsplit("@", 1)
        storage = f"{scheme}://{user.split(':')[0]}:***@{host}"
    return f"--storage={storage}"


def reason(error: BaseException) -> str:
    """What an error of the storage comes from, in one line."""
    cause = error.__cause__ or error
    text = getattr(cause, "orig", None) or getattr(cause, "strerror", None) or cause
    return " ".join(str(text).split()) or type(cause).__name__
