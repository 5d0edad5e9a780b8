"""The one place that names pmap: mapping, placement, collectives over devices.

The state is replicated (sharding `P()`, no leading device axis); only the batch has a
leading [devices, ...] axis. Rows are dealt to the devices like cards: row r of a
global batch goes to device r mod D. Thus the first b rows of the global batch are the
first b/D rows of every device, and everything drawn for the global batch from one key
is the same whatever D is.

D counts the devices of all processes of a run. Where they are several, state and batch
are global arrays, of which each process holds the part on its own devices, and a mapped
function must be lowered and compiled before it is called: called as it is, pmap would
hand back arrays of this process alone, which can be neither saved nor fed again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
PyTree = Any


def map_step(step: Callable, devices: Sequence[jax.Device]) -> Callable:
    """pmaps `step(state, batch) -> (state, metrics)`; the state is donated.

    Inside, collectives over AXIS are available and the batch is one device's share.
    What `step` returns must be equal on all devices: nothing checks that here.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def map_resident_step(
    step: Callable, num_inputs: int, devices: Sequence[jax.Device]
) -> Callable:
    """pmaps `step(state, *inputs) -> (state, metrics)` whose inputs lie whole on every
    device; the state is donated, the inputs are not.

    The mapped function takes `ranks(devices)` after the inputs: pmap wants an argument
    that differs from device to device.
    """

    def on_one_device(state, *inputs_and_rank):
        return step(state, *inputs_and_rank[:-1])

    return jax.pmap(
        on_one_device,
        axis_name=AXIS,
        in_axes=(None,) * (1 + num_inputs) + (0,),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )


def all_devices() -> list[jax.Device]:
    """Those of all processes, process by process."""
    processes = range(jax.process_count())
    return [d for p in processes for d in jax.local_devices(process_index=p)]


def ranks(devices: Sequence[jax.Device]) -> jax.Array:
    """int32 [D], one number on each device."""
    numbers = np.arange(len(devices), dtype=np.int32)
    return _place(numbers[_own(devices)], devices)


def map_eval(forward: Callable, devices: Sequence[jax.Device]) -> Callable:
    """pmaps `forward(variables, batch) -> rows`; rows keep their device axis."""
    return jax.pmap(
        forward, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=devices
    )


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Places a tree on all devices, without a device axis; every process has the same.

    Done before step 1: otherwise the first step would reshard the donated state and
    hold it twice.
    """
    mesh = _mesh(devices)
    local = jax.device_put(tree, NamedSharding(mesh.local_mesh, PartitionSpec()))
    if not mesh.is_multi_process:
        return local
    return multihost_utils.host_local_array_to_global_array(
        local, mesh, PartitionSpec()
    )


def replicated(devices: Sequence[jax.Device]) -> NamedSharding:
    """The placement of what `replicate` has placed."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def own_rows(count: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Positions of this process's rows in a global batch of `count`, ascending; with
    one process all of them. count: a multiple of the number of devices."""
    return np.arange(count).reshape(-1, len(devices))[:, _own(devices)].reshape(-1)


def shard_rows(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Deals this process's rows of a global batch (see `own_rows`), numpy, to its
    devices: n rows of all processes together become a device array [D, n / D, ...]."""
    mine = len(_own(devices))
    return _place(jax.tree.map(lambda x: deal(x, mine), tree), devices)


def deal(rows: Any, num_devices: int) -> Any:
    """[n, ...] -> [D, n / D, ...], row r at [r mod D, r div D]."""
    n = rows.shape[0]
    return rows.reshape(n // num_devices, num_devices, *rows.shape[1:]).swapaxes(0, 1)


def collect(rows: Any) -> np.ndarray:
    """The inverse of dealing, on the host: [D, n / D, ...] -> numpy [n, ...].

    Every process gets the rows of all, and has to call it.
    """
    if isinstance(rows, jax.Array) and not rows.is_fully_addressable:
        rows = multihost_utils.process_allgather(rows, tiled=True)
    return _undeal(np.asarray(rows))


def local_rows(global_rows: jax.Array) -> jax.Array:
    """This device's share of something that every device holds whole (in a step)."""
    return deal(global_rows, num_devices())[jax.lax.axis_index(AXIS)]


def global_positions(local_count: int) -> jax.Array:
    """Positions in the global batch of this device's rows, int32 [local_count]."""
    rows = jax.lax.iota("int32", local_count)
    return rows * num_devices() + jax.lax.axis_index(AXIS).astype("int32")


def num_devices() -> int:
    return jax.lax.axis_size(AXIS)


def mean(tree: PyTree) -> PyTree:
    """Mean over devices of every leaf (in a step)."""
    return jax.lax.pmean(tree, AXIS)


def gather(x: jax.Array) -> jax.Array:
    """[...] on each device -> [D, ...] on all of them (in a step)."""
    return jax.lax.all_gather(x, AXIS)


def gather_rows(local: jax.Array) -> jax.Array:
    """[n / D, ...] on each device -> [n, ...] in the global batch's order (in a step):
    the inverse of `local_rows`."""
    return _undeal(gather(local))


def _undeal(dealt: Any) -> Any:
    """[D, n / D, ...] -> [n, ...]: the inverse of `deal`, numpy or jax."""
    rows = dealt.swapaxes(0, 1)
    return rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), (AXIS,))


def _own(devices: Sequence[jax.Device]) -> list[int]:
    """Positions of this process's among the devices."""
    me = jax.process_index(devices[0].client)
    return [i for i, d in enumerate(devices) if d.process_index == me]


def _place(local: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """numpy [this process's devices, ...] -> device array [D, ...]."""
    sharding = NamedSharding(_mesh(devices), PartitionSpec(AXIS))
    return jax.make_array_from_process_local_data(sharding, local)
