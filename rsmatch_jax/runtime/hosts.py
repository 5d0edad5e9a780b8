"""Several processes of one run: how they start and agree.

JAX's distributed runtime connects them; they exchange everything else through its
key-value store. With one process all functions return at once.
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

# The only import from jax._src. The store and its barriers have time limits, so that a
# process whose partner has died ends within seconds (tests/faults). JAX's public
# functions (multihost_utils) wait without a limit. Orbax imports this client as well.
from jax._src import distributed
from jax.experimental import multihost_utils

from rsmatch_jax.errors import STOPPED, RequestError, RunFailed, one_line
from rsmatch_jax.runtime import supervisor
from rsmatch_jax.runtime.cluster import Group, split_address

T = TypeVar("T")
MEET = 300  # seconds until all processes of a run must have started
HEARTBEAT = 30  # seconds of silence after which a process counts as dead
PART = 600  # seconds that a finished process waits for the others
TOGETHER = 5  # seconds in which all processes fail for one reason
LOOK = 30  # seconds until a network file system shows a new file
PATIENCE = 7 * 24 * 3600  # seconds that processes wait while one loads data
# In the messages of the exceptions that XLA raises if another process has died.
LOST = re.compile(
    "gloo|nccl|rccl|coordination service|heartbeat|connection (closed|reset)|preempted",
    re.IGNORECASE,
)


def start(group: Group | None, *, seconds: float = MEET):
    """Connects the processes of a run, before anything else uses JAX's devices.

    None, a process alone, does nothing. If only some processes start within `seconds`,
    JAX aborts them from C++ (see `supervisor`).

    Raises:
        RequestError: the port is in use, or the processes have different devices.
        RunFailed: the processes do not meet within `seconds`.
    """
    if group is None:
        return
    where = group.coordinator or f"the address that JAX has {group.source}"
    supervisor.tell(
        f"waiting for the other processes at {where}: all of them must start within "
        f"{seconds:.0f} s, each with another number, and reach that address"
    )
    if group.coordinator is not None:
        _knock(group, seconds)
    # It would catch SIGTERM, which `consensus` handles.
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
        raise RunFailed(f"the processes did not meet at {where}: {one_line(e)}") from e
    local = jax.local_devices()
    require_equal(
        "devices",
        f"{len(local)} of {local[0].platform}",
        "give all processes the same number and kind of devices",
    )
    _connect()
    supervisor.tell("")


def is_primary() -> bool:
    """Returns whether this process writes the files and prints the lines."""
    return index() == 0


def index() -> int:
    """Returns this process's number, from 0."""
    return jax.process_index() if num_processes() > 1 else 0


def num_processes() -> int:
    """Returns the number of processes of the run."""
    return distributed.global_state.num_processes


def agreed(name: str, function: Callable[[], T], *, primary_first: bool = False) -> T:
    """Returns the function's result here, once it has returned on every process.

    A RequestError or RunFailed of one process is raised on all, so that none waits for
    another.

    Args:
        name: used by no other call.
        primary_first: the others begin when process 0 is done, and find its files.
    """
    if num_processes() == 1:
        return function()
    if primary_first and not is_primary():
        _raise_outcome(name, 0)
    try:
        result = function()
    except (RequestError, RunFailed) as e:
        _publish_outcome(name, {"refused": isinstance(e, RequestError), "why": str(e)})
        raise
    _publish_outcome(name, {})
    for process in range(num_processes()):
        _raise_outcome(name, process)
    return result


def on_primary(name: str, function: Callable[[], T]) -> T:
    """Runs a function on process 0 and returns its JSON-ready result on every process.

    Its RequestError or RunFailed is raised on all.
    """
    if num_processes() == 1:
        return function()
    if is_primary():
        try:
            result = function()
        except (RequestError, RunFailed) as e:
            _publish_outcome(
                name, {"refused": isinstance(e, RequestError), "why": str(e)}
            )
            raise
        _publish_outcome(name, {"result": result})
        return result
    return _raise_outcome(name, 0).get("result")


def require_equal(name: str, value: str, way_out: str):
    """Raises RequestError, on every process, unless all have the same `value`.

    name: of the value, in the message; used by no other call.
    """
    if num_processes() == 1:
        return
    key = f"rsmatch_jax/equal/{name}"
    digest = hashlib.sha256(value.encode()).hexdigest()
    client().key_value_set(f"{key}/{index()}", digest)
    digests = [get(f"{key}/{p}") for p in range(num_processes())]
    others = [p for p, d in enumerate(digests) if d != digests[0]]
    if others:
        numbers = ", ".join(map(str, others))
        raise RequestError(
            f"{name}: not the same on process 0 and process {numbers}; {way_out}"
        )


def barrier(name: str, seconds: float = PATIENCE):
    """Waits until every process has called it; name: used by no other call."""
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
        # NFS asks its server for a list of files, but not for a single file.
        while not (os.path.isdir(folder) and name in os.listdir(folder)):
            if time.monotonic() > deadline:
                raise RequestError(
                    f"--workdir={folder} is another folder on process 0; it must lie "
                    "on a file system that all machines share"
                )
            time.sleep(0.1)

    try:
        agreed("look into the workdir", look)
    finally:
        if is_primary():
            os.remove(os.path.join(folder, name))


def steps_ahead(most: int, platform: str) -> int:
    """Returns how many dispatches may be under way while the next one is made.

    `most`, but 0 for several processes on CPUs: the collectives of two programs may run
    in different orders on two hosts, and gloo would wait for half an hour.
    """
    return 0 if platform == "cpu" and num_processes() > 1 else most


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Turns the exceptions of XLA for a lost process into RunFailed."""
    try:
        yield
    except (RequestError, RunFailed):
        raise
    except Exception as e:  # Orbax wraps XLA's exceptions in others
        if num_processes() == 1 or not LOST.search(str(e)):
            raise
        raise RunFailed(
            f"process {index()} of {num_processes()} has lost another one "
            f"({one_line(e)}); the message of that process says why. {supervisor.GO_ON}"
        ) from e


def leave(code: int) -> int:
    """Ends the work of this process with the others and returns the exit code.

    One of several processes that has failed alone exits at once: JAX's orderly end
    would wait for the others, and they for it.
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
    """Checks that process 0 can use its port and that the others reach it."""
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
                    f"--coordinator={group.coordinator}: {group.name} could not "
                    f"connect for {seconds:.0f} s ({e.strerror or e}). Start process 0 "
                    "on that machine and open the port"
                ) from e
        time.sleep(0.2)


def _touch(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), "w"):
        return name


def _connect():
    """Opens the connections between all devices while all processes are here.

    Later, gloo would give up on a process that comes half a minute after another.
    """
    multihost_utils.sync_global_devices("rsmatch_jax")
    devices = [d for p in range(num_processes()) for d in jax.local_devices(p)]
    mesh = jax.sharding.Mesh(devices, "all")
    ones = jax.make_array_from_process_local_data(
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all")),
        np.ones(jax.local_device_count(), np.float32),
    )
    jax.block_until_ready(jax.jit(jnp.sum)(ones))


def client() -> Any:
    """Returns JAX's client of the key-value store that the processes share."""
    return distributed.global_state.client


def get(key: str) -> str:
    """Returns a value of the shared store; waits until a process has set it."""
    return client().blocking_key_value_get(key, PATIENCE * 1000)


def _publish_outcome(name: str, outcome: dict[str, Any]):
    key = f"rsmatch_jax/outcome/{name}/{index()}"
    client().key_value_set(key, json.dumps(outcome))


def _raise_outcome(name: str, process: int) -> dict[str, Any]:
    outcome = json.loads(get(f"rsmatch_jax/outcome/{name}/{process}"))
    if "why" in outcome:
        error = RequestError if outcome["refused"] else RunFailed
        raise error(f"process {process}: {outcome['why']}")
    return outcome
