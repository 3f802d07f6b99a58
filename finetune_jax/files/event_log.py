"""TensorBoard events of a run."""

import time
from pathlib import Path
from typing import Any


def start_events(directory: Path, epoch: int) -> Any:
    """A writer of TensorBoard events from this epoch on.

    It writes when it is told to. TensorBoardX's own ``SummaryWriter`` has a thread for it, which dies on a
    full disk and then lets the next ``add_scalar`` wait for ever.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    directory.mkdir(exist_ok=True)
    events = EventsWriter(str(directory / "events"))
    # Events of epochs that are trained again after a kill hide the earlier ones.
    events.write_event(event(epoch, session_log=SessionLog(status=SessionLog.START)))
    return events


def event(epoch: int, **content: Any) -> Any:
    """One TensorBoard event, dated now."""
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time.time(), step=epoch, **content)
