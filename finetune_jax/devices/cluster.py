"""This process as one of several that train together: from a roll call to the end of the job."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from finetune_jax.devices import roll_call, slurm
from finetune_jax.devices.coordination_service import CoordinationService
from finetune_jax.devices.peers import ROOT, STOPPED_STATUS, Peers
from finetune_jax.devices.roll_call import Place
from finetune_jax.errors import UserError, message

_WAIT_MILLISECONDS = 1000
# A process that has come to its end may be one dispatch ahead of the others, not more.
_ENDED_SECONDS = 5.0

_job: "Job | None" = None


class PeerFailed(UserError):
    """Another process of the job failed, which says why."""


def active() -> "Job | None":
    """The job that this process belongs to; None for a process that trains alone."""
    return _job


def one_per_host_first() -> contextlib.AbstractContextManager[None]:
    """:meth:`Job.one_per_host_first`, or nothing for a process that trains alone."""
    return contextlib.nullcontext() if _job is None else _job.one_per_host_first()


class Job:
    """The processes that train together, connected.

    Attributes:
        place: of this process.
        peers: the others, watched.
    """

    def __init__(self, peers: Peers, service: CoordinationService | None, peer_timeout: float) -> None:
        self.place = peers.place
        self.peers = peers
        self._service = service
        self._peer_timeout = peer_timeout
        self._gathered = 0

    def gather(self, text: str = "") -> list[str]:
        """A text of every process, by its index, over the key-value store; all processes call this equally often.

        Unlike a collective it needs no compilation, waits as long as the others live, and lets signals through.

        Raises:
            PeerFailed: another process called :meth:`gather_failure`; with its message.
            UserError: another process has come to its end instead.
        """
        answers = [json.loads(answer) for answer in self._gather(json.dumps({"text": text}))]
        for index, answer in enumerate(answers):
            if "failure" in answer:
                raise PeerFailed(f"{self.peers.name(index)} failed: {answer['failure']}")
        return [answer["text"] for answer in answers]

    def gather_failure(self, message: str) -> None:
        """Instead of :meth:`gather`, after an error of this process."""
        self._gather(json.dumps({"failure": message}))

    @contextlib.contextmanager
    def one_per_host_first(self) -> Iterator[None]:
        """The first process of each host does the work; the others of that host then do it too, and find it done."""
        hosts = self.peers.hosts
        first = hosts.index(hosts[self.place.index]) == self.place.index
        if not first:
            self.gather()
        yield
        if first:
            self.gather()

    def _gather(self, text: str) -> list[str]:
        store, number = _store(), self._gathered
        self._gathered += 1
        mine, result = f"{ROOT}/texts/{number}", f"{ROOT}/gathered/{number}"
        store.key_value_set(f"{mine}/{self.place.index}", text)
        began: float | None = None
        pause = 0.01
        while True:
            if self.place.index:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    return json.loads(store.blocking_key_value_get(result, _WAIT_MILLISECONDS))
            else:
                texts = {int(key.rpartition("/")[2]): value for key, value in store.key_value_dir_get(mine)}
                if len(texts) == self.place.count:
                    ordered = [texts[index] for index in range(self.place.count)]
                    store.key_value_set(result, json.dumps(ordered))
                    return ordered
                time.sleep(pause)
                pause = min(2 * pause, 0.5)
            ended = [index for index in self.peers.ended if index != self.place.index]
            if ended:
                began = began or time.monotonic()
                if time.monotonic() - began > _ENDED_SECONDS:
                    raise UserError(
                        f"{self.peers.name(min(ended))} has come to its end and "
                        f"{self.peers.name(self.place.index)} has not; give a --workdir that all processes share"
                    )

    def stop_requested(self) -> bool:
        """Whether to save and stop now; asked between two dispatches, equally often by all processes."""
        return self.peers.stopping.ask()

    def loop_ended(self) -> None:
        """Training asks no more for now."""
        self.peers.stopping.loop_ended()

    def fail(self, message: str, status: int = 1) -> NoReturn:
        """End this process after an error that was printed, and the others with its message."""
        stopped = status in (STOPPED_STATUS, 128 + signal.SIGINT)
        self.peers.leave(status, "stopped" if stopped else "failed", message, printed=True)

    def await_verdict(self) -> None:
        """A collective failed: give the threads time to see that a process was lost; they then end this one."""
        deadline = time.monotonic() + self._peer_timeout + _ENDED_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.1)

    def finish(self) -> None:
        """The end of a job without an error: wait for the others, and take leave of JAX's service."""
        self.peers.finish()
        jax.distributed.shutdown()
        if self._service is not None:
            self._service.close()


def join(
    coordinator: str, process_count: int, process_index: int, *, peer_timeout: float, stop_timeout: float
) -> Job:
    """Connect this process with the others of a job; before JAX starts its backend.

    Args:
        coordinator: ``host:port`` of process 0, or ``auto`` for what Slurm, Open MPI, Kubernetes or a TPU pod say.
        process_count: ignored with ``auto``.
        process_index: ignored with ``auto``.
        peer_timeout: seconds within which all have ended where a process has not come, or is silent.
        stop_timeout: seconds after SIGTERM at which a process ends that has not come to save its state.

    Raises:
        UserError: the settings are incomplete, or the processes do not come together.
    """
    global _job
    place = place_of(coordinator, process_count, process_index)
    devices: tuple[int, ...] | None = None
    if coordinator == "auto" and slurm.is_task(os.environ):
        devices = slurm.local_device_ids(os.environ, len(list(Path("/dev").glob("nvidia[0-9]*"))))
    # The rest is for telling each other.
    patience = peer_timeout - min(_ENDED_SECONDS, peer_timeout / 4)
    port = roll_call.address(place.coordinator)[1]
    # JAX's own patience must be longer: it ends a process without a word.
    heartbeat = round(3 * peer_timeout) + 60
    service = None
    if place.index == 0:
        attendance = roll_call.gather(place, patience)
        try:
            service = CoordinationService(port, place.count, heartbeat)
        except UserError as error:
            attendance.refuse(str(error))
            raise
        attendance.go()
    else:
        attendance = roll_call.report(place, patience)
    peers = Peers(place, attendance, timeout=patience, stop_timeout=stop_timeout)
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=devices,
        cluster_detection_method="deactivate",
        initialization_timeout=heartbeat,
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=60,
        # JAX starts a service inside process 0, which nobody calls: the one in use has a process of its own.
        coordinator_bind_address="127.0.0.1:0",
    )
    peers.connected(_store())
    _job = Job(peers, service, peer_timeout)
    return _job


def place_of(coordinator: str, process_count: int, process_index: int) -> Place:
    """Where this process stands in its job.

    Raises:
        UserError: the settings are incomplete, or ``auto`` finds nothing.
    """
    host = slurm.host(os.environ) or socket.gethostname()
    if coordinator != "auto":
        if process_count < 1 or not 0 <= process_index < process_count:
            raise UserError(
                f"--process_index={process_index} and --process_count={process_count} do not name one process; "
                "give every process of --coordinator its own index from 0"
            )
        roll_call.address(coordinator)
        return Place(coordinator, process_count, process_index, host)
    from jax._src.clusters import ClusterEnv

    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not slurm.is_task(os.environ)
    if in_pod and importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "--coordinator=auto on Kubernetes needs a library that is not installed: pip install 'finetune-jax[k8s]', "
            "or give host:port, --process_count and --process_index as cluster/jobset.yaml does"
        )
    try:
        parameters: Sequence[Any] = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, (), None, 60
        )
    except Exception as error:
        if not in_pod:
            raise
        raise UserError(
            f"--coordinator=auto: Kubernetes does not tell the pods of this job ({message(error).splitlines()[0]}); "
            "give host:port, --process_count and --process_index as cluster/jobset.yaml does"
        ) from error
    address, count, index, _ = parameters
    if address is None or count is None or index is None:
        raise UserError(
            "--coordinator=auto: this is no task of Slurm (srun), Open MPI, Kubernetes or a TPU pod; give host:port "
            "of process 0 with --process_count and --process_index"
        )
    return Place(address, count, index, host)


def _store() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
