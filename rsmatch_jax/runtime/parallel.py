"""Mapping over devices, placement and collectives; the only module that names pmap.

The state is replicated. Row r of a global batch goes to device r mod D, as cards are
dealt to the D devices of all processes: the first b rows are the first b/D of each, and
what one key draws is the same for every D. `axis` names the mapped axis; None = one
device, and an unbound name raises a NameError.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"  # the axis of every function that this module maps
PyTree = Any


def map_step(
    step: Callable,
    devices: Sequence[jax.Device],
    in_axes: Sequence[int | None] = (None, 0),
) -> jax.stages.Wrapped:
    """Returns the pmap of `step(state, batch) -> (state, metrics)`; donates the state.

    `step` must return the same on all devices; nothing checks it. With several
    processes it must be compiled first: pmap, called directly, returns arrays of this
    process alone, which can be neither saved nor fed again.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=in_axes,
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def map_resident_step(
    step: Callable, num_inputs: int, devices: Sequence[jax.Device]
) -> jax.stages.Wrapped:
    """Returns `map_step` of `step(state, *inputs)` with inputs that all devices hold.
    `ranks(devices)` follow: pmap needs an argument that differs between devices."""

    def on_one_device(state, *inputs_and_rank):
        return step(state, *inputs_and_rank[:-1])

    return map_step(on_one_device, devices, (None,) * (1 + num_inputs) + (0,))


def all_devices() -> list[jax.Device]:
    """Returns the devices of all processes, ordered by process."""
    processes = range(jax.process_count())
    return [d for p in processes for d in jax.local_devices(process_index=p)]


def ranks(devices: Sequence[jax.Device]) -> jax.Array:
    """Returns the numbers 0 to D - 1, int32 [D], one on each device."""
    numbers = np.arange(len(devices), dtype=np.int32)
    return _place(numbers[_local_positions(devices)], devices)


def rank_shapes(devices: Sequence[jax.Device]) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and placement of `ranks`."""
    return jax.ShapeDtypeStruct((len(devices),), np.int32, sharding=dealt(devices))


def map_eval(forward: Callable, devices: Sequence[jax.Device]) -> jax.stages.Wrapped:
    """Returns the pmap of `forward(variables, batch) -> rows`; rows are [D, ...]."""
    return jax.pmap(
        forward, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=devices
    )


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Places a tree, the same in every process, on all devices, without a device axis.
    Otherwise the first step would reshard the donated state and hold it twice."""
    mesh, everywhere = _mesh(devices), PartitionSpec()
    local = jax.device_put(tree, NamedSharding(mesh.local_mesh, everywhere))
    if not mesh.is_multi_process:
        return local
    return multihost_utils.host_local_array_to_global_array(local, mesh, everywhere)


def replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """Returns the sharding that `replicate` uses."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def dealt(devices: Sequence[jax.Device]) -> NamedSharding:
    """Returns the sharding of `shard_rows`: [D, ...], a row for each device."""
    return NamedSharding(_mesh(devices), PartitionSpec(AXIS))


def own_rows(count: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the ascending positions of this process's rows in a batch of `count`."""
    rows = np.arange(count).reshape(-1, len(devices))
    return rows[:, _local_positions(devices)].reshape(-1)


def shard_rows(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Deals this process's rows of a global batch (see `own_rows`) to its devices: the
    n rows of all processes become a device array [D, n / D, ...]."""
    num_local = len(_local_positions(devices))
    return _place(jax.tree.map(lambda x: deal(x, num_local), tree), devices)


def deal(rows: Any, num_devices: int) -> Any:
    """Reshapes [n, ...] to [D, n / D, ...]; row r lands at [r mod D, r div D]."""
    n = rows.shape[0]
    return rows.reshape(n // num_devices, num_devices, *rows.shape[1:]).swapaxes(0, 1)


def collect(rows: Any) -> np.ndarray:
    """Undoes `shard_rows`: [D, n / D, ...] -> numpy [n, ...], in every process."""
    if isinstance(rows, jax.Array) and not rows.is_fully_addressable:
        rows = multihost_utils.process_allgather(rows, tiled=True)
    return _undeal(np.asarray(rows))


def local_rows(global_rows: jax.Array, axis: str | None = AXIS) -> jax.Array:
    """Returns this device's rows [n / D, ...] of an array [n, ...] that all hold."""
    if axis is None:
        return global_rows
    return deal(global_rows, num_devices(axis))[jax.lax.axis_index(axis)]


def global_positions(local_count: int, axis: str | None = AXIS) -> jax.Array:
    """Returns this device's positions in the global batch, int32 [local_count]."""
    rows = jax.lax.iota("int32", local_count)
    if axis is None:
        return rows
    return rows * num_devices(axis) + jax.lax.axis_index(axis).astype("int32")


def num_devices(axis: str | None = AXIS) -> int:
    """Returns D, the size of the axis."""
    return 1 if axis is None else jax.lax.axis_size(axis)


def mean(tree: PyTree, axis: str | None = AXIS) -> PyTree:
    """Returns the mean over devices of every leaf."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


def gather(x: jax.Array, axis: str | None = AXIS) -> jax.Array:
    """Returns what all devices hold: [...] on each -> [D, ...] on all."""
    return x[None] if axis is None else jax.lax.all_gather(x, axis)


def gather_rows(local: jax.Array, axis: str | None = AXIS) -> jax.Array:
    """Undoes `local_rows`: [n / D, ...] on each device -> [n, ...] in global order."""
    return _undeal(gather(local, axis))


def _undeal(dealt: Any) -> Any:
    rows = dealt.swapaxes(0, 1)
    return rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


def _local_positions(devices: Sequence[jax.Device]) -> list[int]:
    process = jax.process_index(devices[0].client)
    return [i for i, d in enumerate(devices) if d.process_index == process]


def _place(local: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Places numpy [this process's devices, ...] as a device array [D, ...]."""
    return jax.make_array_from_process_local_data(dealt(devices), local)
