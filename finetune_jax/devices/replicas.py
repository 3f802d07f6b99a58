"""Devices and processes: the only place that maps a per-replica function over them.

Each process drives its local devices with ``jax.pmap`` over the axis :data:`AXIS`; collectives inside span
all processes. State is replicated without a leading axis, batches are split.
"""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from finetune_jax.devices import cluster, host_memory, shares
from finetune_jax.errors import UserError

AXIS = "batch"

# In jaxlib 0.10, XLA hands convolutions on CPU to a library that runs those of up to 96 channels on one thread; with
# this it hands it products and sums only, though convolutions that are averaged may come with the sum. Version 0.11 is
# fast by itself. Measured in docs/lab/performance.md.
CONVOLUTION_FLAG = (
    "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
)


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The devices one run trains on.

    Attributes:
        devices: of this process.
        process_index: 0 writes the run directory.
        process_count: all with the same number of devices.
    """

    devices: tuple[jax.Device, ...]
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        # A list, as JAX gives it, would do until something is kept by the replicas it was made for.
        object.__setattr__(self, "devices", tuple(self.devices))

    @property
    def count(self) -> int:
        """Replicas over all processes."""
        return len(self.devices) * self.process_count

    @property
    def is_primary(self) -> bool:
        """Whether this process writes files and prints."""
        return self.process_index == 0

    @property
    def description(self) -> str:
        """Such as ``16 devices (2 processes × 8 NVIDIA H100)``."""
        kind = self.devices[0].device_kind
        kind = kind.upper() if self.on_cpu else kind
        each = f"{self.process_count} processes × {len(self.devices)} " if self.process_count > 1 else ""
        return f"{self.count} device{'s' if self.count > 1 else ''} ({each}{kind})"

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are CPU cores."""
        return self.devices[0].platform == "cpu"

    def map(
        self,
        function: Callable[..., Any],
        in_axes: Sequence[Any],
        out_axes: Any = None,
        donate: Sequence[int] = (),
    ) -> Any:
        """``function`` on every replica, compiled; also has the ``lower`` of ``jax.jit``.

        Args:
            function: of one replica; may use collectives over :data:`AXIS`.
            in_axes: None for a replicated argument, 0 for one split by :meth:`split`, or a tree of both that an
                argument begins with.
            out_axes: None for results that are equal on all replicas (which nothing checks), 0 for results
                laid out as by :meth:`split`, or a tree of both.
            donate: positions of arguments whose buffers the result may take over.
        """
        if not (out_axes is None or isinstance(out_axes, int | tuple)):
            return self._map_to_tree(function, in_axes, out_axes, donate)
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(in_axes),
            out_axes=out_axes,
            # In a job of several processes this argument would have to name the devices of all of them; given
            # this process's own, each process would silently train for itself. The default is all of them.
            devices=list(self.devices) if self.process_count == 1 else None,
            donate_argnums=tuple(donate),
        )

    def _map_to_tree(
        self, function: Callable[..., Any], in_axes: Sequence[Any], out_axes: Any, donate: Sequence[int]
    ) -> Callable[..., Any]:
        """:meth:`map` to a tree with both kinds of results; pmap of several processes takes no dictionaries of axes."""
        structure: Any = None
        is_split: list[bool] = []

        def sorted_by_axis(*arguments: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            nonlocal structure
            result = function(*arguments)
            leaves, structure = jax.tree.flatten(result)
            is_split[:] = jax.tree.leaves(_split_leaves(result, out_axes))
            split = tuple(leaf for leaf, of_rows in zip(leaves, is_split, strict=True) if of_rows)
            equal = tuple(leaf for leaf, of_rows in zip(leaves, is_split, strict=True) if not of_rows)
            return split, equal

        mapped = self.map(sorted_by_axis, in_axes, (0, None), donate)

        def call(*arguments: Any) -> Any:
            split, equal = map(iter, mapped(*arguments))
            return jax.tree.unflatten(structure, [next(split if of_rows else equal) for of_rows in is_split])

        call.lower = mapped.lower  # type: ignore[attr-defined]
        return call

    def map_replicated(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of replicated trees to replicated trees, compiled; every local device computes it all."""
        return jax.jit(function, out_shardings=self._sharding(PartitionSpec()))

    def replicate(self, tree: Any) -> Any:
        """A copy of the tree's arrays on every local device, without a leading axis.

        Goes through host memory, so that no buffer is shared with the source and the result may be donated.
        """
        return jax.device_put(jax.tree.map(np.array, tree), self._sharding(PartitionSpec()))

    def split(self, tree: Any) -> Any:
        """This process's arrays ``[B_local, …]`` as ``[devices, B_local / devices, …]``, one row each."""
        rows = len(self.devices)
        reshaped = jax.tree.map(lambda x: np.reshape(x, (rows, x.shape[0] // rows, *x.shape[1:])), tree)
        return jax.device_put(reshaped, self._sharding(PartitionSpec(AXIS)))

    def share(self, tree: Any) -> Any:
        """Host arrays in shares over all replicas (see ``devices.shares``), on each local device its own.

        Every process gives the whole arrays; what stays whole is replicated.
        """
        first = self.process_index * len(self.devices)

        def place(rows: np.ndarray) -> jax.Array:
            if not rows.ndim:
                return jax.device_put(rows, self._sharding(PartitionSpec()))
            # pmap counts the replicas of one process after the other.
            local_rows = rows[first : first + len(self.devices)]
            return jax.device_put(local_rows, self._sharding(PartitionSpec(AXIS)))

        return jax.tree.map(lambda leaf: place(shares.cut(leaf, self.count)), tree)

    def across_processes(self, tree: Any, axes: Any) -> Any:
        """Arrays in shares as those of the whole job, without a copy; all others on the host.

        Args:
            tree: arrays as :meth:`map` takes and gives them.
            axes: of it, as for :meth:`map`.
        """
        devices = [device for index in range(self.process_count) for device in jax.local_devices(index)]
        sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

        def of(leaf: Any, is_split: bool) -> Any:
            if not is_split:
                return np.asarray(leaf)
            rows = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays((self.count, *leaf.shape[1:]), sharding, rows)

        return jax.tree.map(of, tree, _split_leaves(tree, axes))

    def from_primary(self, tree: Any) -> Any:
        """The arrays of the first process, on the host of every process.

        For what is computed on hosts: processors of different kinds round differently.
        """
        if self.process_count == 1:
            return tree

        def on_first_device(leaf: Any) -> np.ndarray:
            rows = np.zeros((len(self.devices), *np.shape(leaf)), np.asarray(leaf).dtype)
            if self.is_primary:
                rows[0] = leaf
            return rows

        added = self.map(lambda rows: jax.tree.map(lambda row: jax.lax.psum(row[0], AXIS), rows), (0,))
        return jax.device_get(added(self.split(jax.tree.map(on_first_device, tree))))

    def on_host(self) -> contextlib.AbstractContextManager[Any]:
        """Inside it new arrays come to the memory of the host, where JAX has its CPU backend beside the devices'."""
        try:
            return jax.default_device(jax.local_devices(backend="cpu")[0])
        except RuntimeError:  # JAX_PLATFORMS leaves it out
            return contextlib.nullcontext()

    def local_columns(self, order: np.ndarray) -> np.ndarray:
        """This process's columns of ``order [steps, B]``, as ``[steps, B / processes]``."""
        width = order.shape[1] // self.process_count
        return order[:, self.process_index * width : (self.process_index + 1) * width]

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Work that may fail on one process alone, such as writing files; its end is a barrier.

        If it does, the others fail too. They would otherwise wait for that process in a collective.

        Raises:
            UserError: another process failed; with its message.
        """
        job = cluster.active() if self.process_count > 1 else None
        try:
            yield
        except cluster.PeerFailed:
            raise
        except Exception as error:
            if job is not None:
                job.gather_failure(str(error) or type(error).__name__)
            raise
        if job is not None:
            job.gather()

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that the replicas cannot share evenly.

        Raises:
            UserError: naming ``--batch_size``.
        """
        if batch_size % self.count:
            lower = batch_size // self.count * self.count
            nearest = f"{lower} or {lower + self.count}" if lower else f"{self.count}"
            raise UserError(
                f"--batch_size={batch_size} does not divide by the {self.count} devices; use {nearest}"
            )

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), spec)


def _split_leaves(tree: Any, axes: Any) -> Any:
    """For each leaf whether it is split, from axes that the tree begins with."""
    # None is no leaf of a tree.
    is_split = jax.tree.map(lambda axis: axis == 0, axes, is_leaf=lambda axis: axis is None)
    return jax.tree.broadcast(is_split, tree)


def local_replicas(devices: Sequence[jax.Device] | None = None) -> Replicas:
    """All devices of the job, or the given local ones of a single process."""
    if devices is not None:
        return Replicas(tuple(devices))
    return Replicas(tuple(jax.local_devices()), jax.process_index(), jax.process_count())


def prepare_backend(virtual_devices: int = 0) -> None:
    """Set what must be set before JAX starts its backend: :data:`CONVOLUTION_FLAG`, and malloc, where they help.

    Args:
        virtual_devices: number of CPU devices to simulate on one machine; 0 takes the real ones.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # libtpu reads the variable too, and ends the process at a flag that it does not know.
    is_tpu = importlib.util.find_spec("libtpu") is not None
    if jaxlib.__version__.startswith("0.10.") and not is_tpu and "xla_cpu_experimental_ynn" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}".lstrip()
    if not (is_tpu or _has_gpu()) and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        host_memory.keep_freed_memory()
    if virtual_devices:
        # XLA's CPU client sizes its thread pool by max(cores, devices); with several collective programs in
        # flight that pool starves and the run dies after 40 s. Twice the devices was always enough.
        os.environ.setdefault("NPROC", str(max(2 * virtual_devices, os.cpu_count() or 1)))
        jax.config.update("jax_num_cpu_devices", virtual_devices)


def _has_gpu() -> bool:
    """Asked of the system: to ask JAX would start the backend."""
    device_files = Path("/dev")
    return any(device_files.glob("nvidia[0-9]*")) or (device_files / "kfd").exists()
