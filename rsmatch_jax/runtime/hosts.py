"""Several processes of one run: how they start and agree.

They find each other by JAX's own distributed runtime; what they agree on besides goes
through its key-value store. With one process everything here answers at once.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # what Orbax takes the runtime's client from, too
from jax.experimental import multihost_utils

from rsmatch_jax.errors import STOPPED, RequestError, RunFailed
from rsmatch_jax.runtime import supervisor
from rsmatch_jax.runtime.cluster import Group, split_address

T = TypeVar("T")
MEET = 300  # seconds in which all processes of a run have to meet
HEARTBEAT = 30  # seconds of silence after which a process counts as dead
PART = 600  # seconds that processes that are done wait for the others
TOGETHER = 5  # seconds in which processes that fail for one reason all do so
LOOK = 30  # seconds that a network file system may take to show a new file
PATIENCE = 7 * 24 * 3600  # seconds for one of them to load data while others wait
# What XLA raises in Python where a process that it works with has gone.
LOST = re.compile(
    "gloo|nccl|rccl|coordination service|heartbeat|connection (closed|reset)|preempted",
    re.IGNORECASE,
)


def start(group: Group | None, *, seconds: float = MEET):
    """Joins the processes of a run, before anything else has used JAX's devices. None,
    a process alone: does nothing.

    Raises RequestError where the address is taken or the processes have not the same
    devices, RunFailed where they do not meet within `seconds`. Where some but not all
    have come, JAX aborts them from C++ (see `supervisor`).
    """
    if group is None:
        return
    where = group.coordinator or f"the address that JAX is given {group.source}"
    supervisor.tell(
        f"waiting for the other processes at {where}: all of them have to start within "
        f"{seconds:.0f} s, each with another number, and reach that address"
    )
    if group.coordinator is not None:
        _knock(group, seconds)
    # It would take the SIGTERM, see `stopping_together`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.size if group.coordinator else None,
            group.rank if group.coordinator else None,
            local_device_ids=group.local_devices,
            cluster_detection_method="deactivate"
            if group.coordinator
            else group.method,
            initialization_timeout=round(seconds),
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PART,
        )
    except (ValueError, RuntimeError) as e:
        raise RunFailed(f"the processes did not meet at {where}: {_short(e)}") from e
    local = jax.local_devices()
    require_equal(
        "devices",
        f"{len(local)} of {local[0].platform}",
        "give all processes the same number and kind of devices",
    )
    _connect()
    supervisor.tell("")


def is_primary() -> bool:
    """Whether this process is the one that writes files and says lines."""
    return index() == 0


def index() -> int:
    """This process's number, from 0."""
    return jax.process_index() if num_processes() > 1 else 0


def num_processes() -> int:
    return distributed.global_state.num_processes


def agreed(name: str, function: Callable[[], T], *, primary_first: bool = False) -> T:
    """What `function` returns here, once it has returned on every process.

    Where it raises a RequestError or RunFailed on one, it is raised on all, so that
    none waits for another. name: no other call has it. primary_first: the others begin
    when process 0 is done, to find what it has made.
    """
    if num_processes() == 1:
        return function()
    if primary_first and not is_primary():
        _raise_outcome(name, 0)
    try:
        result = function()
    except (RequestError, RunFailed) as e:
        _tell_outcome(name, {"refused": isinstance(e, RequestError), "why": str(e)})
        raise
    _tell_outcome(name, {})
    for process in range(num_processes()):
        _raise_outcome(name, process)
    return result


def on_primary(name: str, function: Callable[[], T]) -> T:
    """What `function` returns on process 0, the only one to run it, on every process:
    something that JSON can carry. It raises what `function` raises, as `agreed`."""
    if num_processes() == 1:
        return function()
    if is_primary():
        try:
            result = function()
        except (RequestError, RunFailed) as e:
            _tell_outcome(name, {"refused": isinstance(e, RequestError), "why": str(e)})
            raise
        _tell_outcome(name, {"result": result})
        return result
    return _raise_outcome(name, 0).get("result")


def require_equal(name: str, value: str, way_out: str):
    """Raises RequestError, on every process, unless all have the same `value`.

    name: what it is, in the message, and no other call has it.
    """
    if num_processes() == 1:
        return
    key = f"rsmatch_jax/equal/{name}"
    digest = hashlib.sha256(value.encode()).hexdigest()
    client().key_value_set(f"{key}/{index()}", digest)
    found = [get(f"{key}/{p}") for p in range(num_processes())]
    others = [p for p, d in enumerate(found) if d != found[0]]
    if others:
        numbers = ", ".join(map(str, others))
        raise RequestError(
            f"{name}: not the same on process 0 and process {numbers}; {way_out}"
        )


def barrier(name: str, seconds: float = PATIENCE):
    """Waits until every process is here; name: no other call has it."""
    if num_processes() > 1:
        client().wait_at_barrier(f"rsmatch_jax/{name}", round(seconds * 1000))


def require_shared(folder: str):
    """Raises RequestError, on every process, unless all see the same folder."""
    if num_processes() == 1:
        return
    name = f".seen_by_all.{os.getpid()}-{time.time_ns()}.tmp"
    name = on_primary("mark in the workdir", lambda: _touch(folder, name))

    def look():
        deadline = time.monotonic() + LOOK
        # To list it makes NFS ask its server.
        while not (os.path.isdir(folder) and name in os.listdir(folder)):
            if time.monotonic() > deadline:
                raise RequestError(
                    f"--workdir={folder} is not the folder that process 0 sees under "
                    "its name; it must lie on a file system that all machines share"
                )
            time.sleep(0.1)

    try:
        agreed("look into the workdir", look)
    finally:
        if is_primary():
            os.remove(os.path.join(folder, name))


def steps_ahead(most: int, platform: str) -> int:
    """How many dispatches may be under way while the next one is made, at most `most`.

    None with several processes on CPUs: collectives of two programs would meet in
    another order on another host, and gloo would wait for half an hour.
    """
    return 0 if platform == "cpu" and num_processes() > 1 else most


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Turns what XLA raises when another process has gone into RunFailed."""
    try:
        yield
    except (RequestError, RunFailed):
        raise
    except Exception as e:  # Orbax wraps XLA's in others
        if num_processes() == 1 or not LOST.search(str(e)):
            raise
        raise RunFailed(
            f"process {index()} of {num_processes()} has lost another one ({_short(e)})"
            f"; that one's own message says why. {supervisor.GO_ON}"
        ) from e


def leave(code: int) -> int:
    """The exit code, as the last thing that a process does.

    Where one of several has failed alone it goes at once: JAX's orderly end would wait
    for the others, and they for it.
    """
    if jax.distributed.is_initialized() and code not in (0, STOPPED):
        try:
            barrier("leave", TOGETHER)
        except jax.errors.JaxRuntimeError:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _knock(group: Group, seconds: float):
    """Sees to it that process 0 has its port and the others reach it."""
    host, port = split_address(group.coordinator)
    if group.rank == 0:
        try:
            socket.create_server(("", port)).close()
        except OSError as e:
            raise RequestError(
                f"--coordinator={group.coordinator}: process 0 cannot listen at port "
                f"{port} here ({e.strerror}); choose another"
            ) from e
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as e:
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"--coordinator={group.coordinator}: {group.name} has found nobody "
                    f"there for {seconds:.0f} s ({e.strerror or e}). Process 0 has to "
                    "be started on that machine, and the port to be open"
                ) from e
        time.sleep(0.2)


def _touch(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), "w"):
        return name


def _connect():
    """Opens the connections between all devices, now that no process is far from here:
    later, one that comes half a minute after another would be given up by gloo."""
    multihost_utils.sync_global_devices("rsmatch_jax")
    devices = [d for p in range(num_processes()) for d in jax.local_devices(p)]
    mesh = jax.sharding.Mesh(devices, "all")
    ones = jax.make_array_from_process_local_data(
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all")),
        np.ones(jax.local_device_count(), np.float32),
    )
    jax.block_until_ready(jax.jit(jnp.sum)(ones))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]  # XLA's may be pages long


def client() -> Any:
    """JAX's way to the processes' common store."""
    return distributed.global_state.client


def get(key: str) -> str:
    """What a process has put, or will put, into the common store."""
    return client().blocking_key_value_get(key, PATIENCE * 1000)


def _tell_outcome(name: str, outcome: dict[str, Any]):
    key = f"rsmatch_jax/outcome/{name}/{index()}"
    client().key_value_set(key, json.dumps(outcome))


def _raise_outcome(name: str, process: int) -> dict[str, Any]:
    outcome = json.loads(get(f"rsmatch_jax/outcome/{name}/{process}"))
    if "why" in outcome:
        error = RequestError if outcome["refused"] else RunFailed
        raise error(f"process {process}: {outcome['why']}")
    return outcome
