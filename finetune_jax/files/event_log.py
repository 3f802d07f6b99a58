"""TensorBoard events of a run."""

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventLog:
    """Writes the numbers of a run's epochs as TensorBoard events; opens its file with the first of them.

    It writes when it is told to. TensorBoardX's own ``SummaryWriter`` has a thread for it, which dies on a full
    disk and then lets the next ``add_scalar`` wait for ever.
    """

    def __init__(self, directory: Path) -> None:
        """Log into a folder, which is created with the first numbers."""
        self._directory = directory
        self._file: Any = None

    def add(self, values: Mapping[str, Any], epoch: int) -> None:
        """Write the numbers of an epoch; they are on disk when this returns.

        Args:
            values: by name; None is left out.
            epoch: on the axis of the plots.

        Raises:
            OSError: the file cannot be written.
        """
        from tensorboardX.summary import scalar

        try:
            if self._file is None:
                self._open(epoch)
            for name, value in values.items():
                if value is not None:
                    self._write(epoch, summary=scalar(name, float(value)))
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def close(self) -> None:
        """Close the file, also where the last numbers cannot be written.

        Raises:
            OSError: they cannot.
        """
        file, self._file = self._file, None
        if file is not None:
            with contextlib.closing(file):
                file.flush()

    def _open(self, epoch: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = RecordWriter(str(self._directory / name))
        self._write(0, file_version="brain.Event:2")
        # Events of epochs that are trained again after a kill hide the earlier ones.
        self._write(epoch, session_log=SessionLog(status=SessionLog.START))

    def _write(self, epoch: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), step=epoch, **content).SerializeToString())
